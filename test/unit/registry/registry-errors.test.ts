import assert from 'node:assert/strict'
import { test } from 'node:test'
import { authRequired, transportError } from '../../../src/services/images/registry/registry-errors.ts'

test('a refusal of Docker Hub also says that the repository may not exist', () => {
  const hub = authRequired({ registry: 'docker.io', repository: 'library/nothing' }, 401, [])
  assert.equal(hub.code, 'image_auth_required')
  assert.match(hub.message, /no such repository.*docker login docker\.io/)
  const other = authRequired({ registry: 'ghcr.io', repository: 'a/b' }, 403, ['a note'])
  assert.doesNotMatch(other.message, /no such repository/)
  assert.match(other.message, /\(a note\)$/)
})

test('what breaks a transfer is told apart, and only what may pass is transient', () => {
  const subject = { registry: 'r.example', repository: 'x' }
  const table: Array<[code: string, message: RegExp, isTransient: boolean]> = [
    ['ECONNREFUSED', /refuses the connection/, true],
    ['ENOTFOUND', /does not resolve/, true],
    ['UND_ERR_BODY_TIMEOUT', /stopped sending/, true],
    ['SELF_SIGNED_CERT_IN_CHAIN', /TLS failed.*BERTH_REGISTRY_CA_FILE.*BERTH_INSECURE_REGISTRIES/, false],
    ['ERR_TLS_CERT_ALTNAME_INVALID', /TLS failed/, false],
    ['CERT_HAS_EXPIRED', /TLS failed/, false],
    ['ERR_SSL_WRONG_VERSION_NUMBER', /does not speak TLS/, false],
    ['ESOMETHING', /the transfer failed/, true],
  ]
  for (const [code, message, isTransient] of table) {
    const error = transportError(subject, Object.assign(new Error('/host/path'), { code }))
    assert.match(error.message, message)
    assert.equal(error.isTransient, isTransient, code)
    assert.doesNotMatch(error.message, /host\/path/)
    assert.deepEqual([error.kind, error.code, error.details], ['unavailable', 'registry_unavailable', { registry: 'r.example' }])
  }
  const refused = Object.assign(new AggregateError([Object.assign(new Error('x'), { code: 'ECONNREFUSED' })]), {})
  assert.match(transportError(subject, refused).message, /refuses/)
})
