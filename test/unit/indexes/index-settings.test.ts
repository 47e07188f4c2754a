/** How stores of indexes are configured. */
import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { readConfig } from '../../../src/config.ts'
import { parseAwsCredentials } from '../../../src/services/images/indexes/aws-credentials.ts'
import { parseIndexStore } from '../../../src/services/images/indexes/index-settings.ts'
import { checkIndexSettings, openLayerIndexes } from '../../../src/services/images/indexes/open-layer-indexes.ts'
import { RegistryConnections } from '../../../src/services/images/registry/registry-connections.ts'
import { defaultRegistrySettings } from '../../../src/services/images/registry/registry-settings.ts'
import { makeLayer, recordingLogger, tempDir } from '../../support/index-fixture.ts'

test('an S3 store is read from its URL, with the defaults of Amazon', () => {
  const parsed = parseIndexStore('s3://my.bucket/a/b/?region=eu-central-1')
  assert.ok(parsed.kind === 's3')
  const { endpoint, ...rest } = parsed.location
  assert.equal(endpoint.href, 'https://s3.eu-central-1.amazonaws.com/')
  assert.deepEqual(rest, { bucket: 'my.bucket', prefix: 'a/b', region: 'eu-central-1', isPathStyle: false, profile: 'default' })
})

test('with an endpoint the bucket is in the path, unless it says otherwise', () => {
  const styles = ['', '&pathStyle=false', '&pathStyle=true'].map(more => {
    const parsed = parseIndexStore(`s3://bucket?endpoint=http://127.0.0.1:9000${more}`)
    return parsed.kind === 's3' && parsed.location.isPathStyle
  })
  assert.deepEqual(styles, [true, false, true])
})

const wrongStores: Array<[text: string, reason: RegExp]> = [
  ['ftp://bucket', /give registry or s3:/],
  ['s3:/bucket', /give registry or s3:/],
  ['Registry', /give registry or s3:/],
  ['s3://', /give registry or s3:|no bucket/],
  ['s3://UPPER_case', /no bucket/],
  ['s3://key:secret@bucket', /credentials belong/],
  ['s3://bucket/a%20b', /a prefix has/],
  ['s3://bucket/a//b', /a prefix has/],
  ['s3://bucket?acl=public', /acl is unknown/],
  ['s3://bucket?endpoint=minio:9000', /no endpoint/],
  ['s3://bucket?endpoint=https://minio/path', /no endpoint/],
  ['s3://bucket?region=EU', /no region/],
  ['s3://bucket?pathStyle=yes', /pathStyle/],
]

for (const [text, reason] of wrongStores) test(`the store ${text} is refused`, () => assert.throws(() => parseIndexStore(text), reason))

test('a store without a key is a configuration error that says how to make one', () => {
  assert.throws(() => readConfig({}, { BERTH_IMAGE_INDEX_STORE: 'registry' }), { code: 'invalid_config', message: /BERTH_IMAGE_INDEX_KEY_FILE.*head -c 32 \/dev\/urandom > / })
  assert.throws(() => readConfig({}, { BERTH_IMAGE_INDEX_STORE: 's3://bucket', BERTH_IMAGE_INDEX_KEY_FILE: '/k' }), { message: /BERTH_IMAGE_INDEX_CREDENTIALS_FILE/ })
  assert.throws(() => readConfig({}, { BERTH_IMAGE_INDEX_STORE: 'nowhere' }), { message: /BERTH_IMAGE_INDEX_STORE: give registry/ })
  assert.equal(readConfig({}, { BERTH_IMAGE_INDEX_STORE: 'registry', BERTH_IMAGE_INDEX_KEY_FILE: 'k' }).imageIndexStore, 'registry')
})

const awsFile = '; of the fleet\n[default]\naws_access_key_id = A\naws_secret_access_key=b/+=\n\n[ other ]\r\naws_access_key_id=C\r\naws_secret_access_key = d\r\naws_session_token = t\r\n'

test('credentials are read as AWS writes them, by profile', () => {
  assert.deepEqual(parseAwsCredentials(awsFile, 'default'), { accessKeyId: 'A', secretAccessKey: 'b/+=' })
  assert.deepEqual(parseAwsCredentials(awsFile, 'other'), { accessKeyId: 'C', secretAccessKey: 'd', sessionToken: 't' })
  assert.throws(() => parseAwsCredentials(awsFile, 'third'), /under \[third\]/)
})

test('files that cannot be used are said at the start, without a word of what is in them', async t => {
  const dir = tempDir(t)
  const [keyFile, credentialsFile] = [join(dir, 'key'), join(dir, 'credentials')]
  const settings = { dir, store: 's3://bucket', keyFile, credentialsFile }
  const fails = (message: RegExp) => assert.rejects(checkIndexSettings(settings), { code: 'invalid_config', message })
  await fails(/KEY_FILE: it cannot be read \(ENOENT\)/)
  writeFileSync(keyFile, 'short-secret', { mode: 0o600 })
  await fails(/KEY_FILE: it has 12 bytes, not 32 to 4096$/)
  writeFileSync(keyFile, Buffer.alloc(32))
  chmodSync(keyFile, 0o640)
  await fails(/KEY_FILE: others than its owner .* chmod 600/)
  chmodSync(keyFile, 0o400)
  await fails(/CREDENTIALS_FILE: it cannot be read/)
  writeFileSync(credentialsFile, '[default]\nsecret', { mode: 0o600 })
  await fails(/^BERTH_IMAGE_INDEX_CREDENTIALS_FILE: it has no aws_access_key_id and aws_secret_access_key under \[default\]$/)
  writeFileSync(credentialsFile, awsFile)
  await checkIndexSettings(settings)
  await checkIndexSettings({ ...settings, store: '', keyFile: '', credentialsFile: '' })
  mkdirSync(join(dir, 'folder'), { mode: 0o700 })
  await assert.rejects(checkIndexSettings({ ...settings, keyFile: join(dir, 'folder') }), /no regular file/)
})

test('with a key that cannot be used there is no store, and everything else goes on', async t => {
  const dir = tempDir(t)
  const { logger, warnings } = recordingLogger()
  const connections = new RegistryConnections({ settings: defaultRegistrySettings })
  t.after(() => connections.close())
  const indexes = await openLayerIndexes({ dir, store: 'registry', keyFile: join(dir, 'none'), credentialsFile: '' }, { connections, logger })
  t.after(() => indexes.close())
  assert.deepEqual(warnings.map(({ level, msg }) => [level, msg]), [[50, 'image indexes are not shared']])
  const { layer, files } = makeLayer(t)
  const context = { sources: [{ kind: 'registry' as const, registry: '127.0.0.1:1', repository: 'a' }] }
  await indexes.add(layer, files, context)
  await indexes.settled()
  assert.ok(await indexes.find(layer, context))
  assert.equal(warnings.length, 1)
  assert.equal(readdirSync(dir).length, 1)
})
