import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseImageReference } from '../../../src/services/images/image-reference.ts'

const accepted: Array<[string, object]> = [
  ['berth/base', { kind: 'base' }],
  ['dir:/srv/rootfs', { kind: 'dir', path: '/srv/rootfs' }],
  ['dir:/srv/a:b', { kind: 'dir', path: '/srv/a:b' }],
  ['oci:/srv/layout', { kind: 'oci', path: '/srv/layout' }],
  ['oci:/srv/layout:3.12', { kind: 'oci', path: '/srv/layout', tag: '3.12' }],
  ['oci:/srv/layout:localhost:5000/team/app:v1', { kind: 'oci', path: '/srv/layout', tag: 'localhost:5000/team/app:v1' }],
]

const refused: Array<[string, string]> = [
  ['', 'invalid_image_reference'],
  ['x'.repeat(1025), 'invalid_image_reference'],
  ['dir:rootfs', 'invalid_image_reference'],
  ['dir:', 'invalid_image_reference'],
  ['dir:/srv/../etc', 'invalid_image_reference'],
  ['dir:/srv/\0', 'invalid_image_reference'],
  ['oci:layout:tag', 'invalid_image_reference'],
  ['oci:/srv/../layout', 'invalid_image_reference'],
  ['oci:/srv/layout:', 'invalid_image_reference'],
  ['oci:/srv/layout:-tag', 'invalid_image_reference'],
  ['Python:3.12', 'invalid_image_reference'],
  ['a b', 'invalid_image_reference'],
  ['../x', 'invalid_image_reference'],
  ['/srv/rootfs', 'invalid_image_reference'],
  ['name@sha256:12', 'invalid_image_reference'],
  ['line\nbreak', 'invalid_image_reference'],
  ['python:3.12', 'image_source_unsupported'],
  ['berth/other', 'image_source_unsupported'],
  ['registry:5000/team/img:tag', 'image_source_unsupported'],
  [`ghcr.io/acme/agent@sha256:${'a'.repeat(64)}`, 'image_source_unsupported'],
  ['docker-archive:/x.tar', 'image_source_unsupported'],
  ['docker://alpine', 'image_source_unsupported'],
]

test('references of each kind are read into their parts', () => {
  for (const [text, expected] of accepted) assert.deepEqual(parseImageReference(text), expected, text)
})

test('references that cannot be used are refused with a code that says why', () => {
  for (const [text, code] of refused) assert.throws(() => parseImageReference(text), { kind: 'invalid_argument', code }, JSON.stringify(text))
})

test('the refusal of a registry reference says which kinds work', () => {
  assert.throws(() => parseImageReference('python:3.12'), /python:3\.12.*berth\/base, dir:.*oci:/)
})

test('a long hostile reference is judged in linear time', () => {
  for (const text of ['a-'.repeat(500), 'a/'.repeat(511), 'a__'.repeat(340), 'a.'.repeat(500) + '/']) {
    assert.throws(() => parseImageReference(text), { kind: 'invalid_argument' })
  }
})
