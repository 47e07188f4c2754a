import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatRegistryReference, parseRegistryReference } from '../../../src/services/images/registry/registry-reference.ts'

const hex = 'a'.repeat(64)

const readable: Array<[text: string, full: string]> = [
  ['alpine', 'docker.io/library/alpine:latest'],
  ['alpine:3.20', 'docker.io/library/alpine:3.20'],
  ['acme/agent', 'docker.io/acme/agent:latest'],
  ['docker.io/alpine', 'docker.io/library/alpine:latest'],
  ['index.docker.io/alpine', 'docker.io/library/alpine:latest'],
  ['docker://alpine', 'docker.io/library/alpine:latest'],
  ['localhost/x', 'localhost/x:latest'],
  ['localhost:5000/x:y', 'localhost:5000/x:y'],
  ['host:5000/x', 'host:5000/x:latest'],
  ['GHCR.io/acme/x', 'ghcr.io/acme/x:latest'],
  ['host.tld/a/b/c', 'host.tld/a/b/c:latest'],
  ['127.0.0.1:5000/x', '127.0.0.1:5000/x:latest'],
  ['[::1]:5000/x', '[::1]:5000/x:latest'],
  [`x@sha256:${hex}`, `docker.io/library/x@sha256:${hex}`],
  [`host:1/x:t@sha256:${hex}`, `host:1/x:t@sha256:${hex}`],
  ['f/a-b__c.d---e', 'docker.io/f/a-b__c.d---e:latest'],
]

test('references are filled in as Docker does, and their full form reads as the same', () => {
  for (const [text, full] of readable) {
    const reference = parseRegistryReference(text)
    assert.equal(formatRegistryReference(reference), full)
    assert.deepEqual(parseRegistryReference(full), reference)
  }
})

test('what is no reference is refused with advice', () => {
  const refused: Array<[text: string, advice: RegExp]> = [
    ['', /1 to 1024/],
    ['x'.repeat(1025), /1 to 1024/],
    ['a b', /no spaces/],
    ['a\u0000', /control/],
    ['Alpine', /lower case; write alpine/],
    ['ghcr.io/Acme/x', /write acme\/x/],
    ['https://ghcr.io/x', /URL/],
    ['x@sha256:abc', /digest/],
    [`x@sha512:${hex}${hex}`, /digest/],
    [`x@sha256:${hex}@sha256:${hex}`, /digest/],
    ['x:', /tag/],
    ['x:.a', /tag/],
    [`x:${'a'.repeat(129)}`, /tag/],
    ['host:0/x', /name of a registry/],
    ['host:65536/x', /name of a registry/],
    ['host:99999999/x', /name of a registry/],
    ['256.256.256.256/x', /name of a registry/],
    ['[::1/x', /name of a registry/],
    ['[1:2:3]/x', /name of a registry/],
    ['-a.b/x', /name of a registry/],
    ['a..b/x', /name of a registry/],
    ['user:pw@host.tld/x', /digest/],
    ['host.tld/', /repository/],
    ['host.tld//x', /repository/],
    ['a/../b', /repository/],
    ['a.b/../../v2/_catalog', /repository/],
    ['x?y=1', /repository/],
    ['x#y', /repository/],
    ['x%2e', /repository/],
    ['_/x', /repository/],
    ['a___b', /repository/],
    ['x/', /repository/],
    ['é', /repository/],
    [hex, /id of an image/],
    [`a.b/${'c/'.repeat(130)}d`, /longer than 255/],
  ]
  for (const [text, message] of refused) {
    assert.throws(() => parseRegistryReference(text), { kind: 'invalid_argument', code: 'invalid_image_reference', message }, text)
  }
})

test('any text gives a reference or that one error, in no time', () => {
  const alphabet = ['a', 'A', '0', '.', '-', '_', '/', ':', '@', '[', ']', '%', '?', 'sha256:', hex, 'docker://', 'localhost', '\n', '\u{1f600}', '\ud800']
  let seed = 7
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2 ** 31
    return seed % below
  }
  for (let i = 0; i < 20_000; i++) {
    const text = Array.from({ length: random(9) }, () => alphabet[random(alphabet.length)]).join('')
    try {
      const reference = parseRegistryReference(text)
      assert.deepEqual(parseRegistryReference(formatRegistryReference(reference)), reference)
      assert.ok(URL.canParse(`https://${reference.registry}/v2/${reference.repository}/`))
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'invalid_image_reference', text)
    }
  }
})
