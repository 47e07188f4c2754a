import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { CredentialFiles } from '../../../src/services/images/registry/registry-credentials.ts'
import { tempDir } from '../images/temp-dir.ts'

const basic = (text: string) => Buffer.from(text).toString('base64')

function build (t: TestContext, content?: unknown) {
  const path = join(tempDir(t), 'config.json')
  const lines: string[] = []
  const write = (value: unknown) => writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value))
  if (content !== undefined) write(content)
  const logger = pino({}, { write: (line: string) => { lines.push(line) } })
  return { path, lines, write, files: new CredentialFiles({ paths: [path], logger }), logger }
}

test('every form of an entry is read', async t => {
  const { files } = build(t, {
    auths: {
      'a.example': { auth: basic('u:p:q') },
      'b.example': { username: 'u', password: 'p' },
      'c.example': { auth: basic('<token>:'), identitytoken: 'i' },
      'd.example': { registrytoken: 'r' },
      'https://e.example/v1/': { auth: basic('e:1') },
      'f.example/v2/': { auth: basic('f:1') },
      'https://index.docker.io/v1/': { auth: basic('hub:1') },
    },
  })
  const find = async (registry: string) => (await files.find(registry, 'x/y')).credentials
  assert.deepEqual(await find('a.example'), { username: 'u', password: 'p:q' })
  assert.deepEqual(await find('b.example'), { username: 'u', password: 'p' })
  assert.deepEqual(await find('c.example'), { identityToken: 'i' })
  assert.deepEqual(await find('d.example'), { token: 'r' })
  assert.deepEqual(await find('e.example'), { username: 'e', password: '1' })
  assert.deepEqual(await find('f.example'), { username: 'f', password: '1' })
  assert.deepEqual(await find('docker.io'), { username: 'hub', password: '1' })
  assert.equal(await find('example'), undefined)
  assert.equal(await find('a.example:5000'), undefined)
})

test('the most specific namespace wins', async t => {
  const { files } = build(t, { auths: { 'r.example/a/b': { auth: basic('ab:1') }, 'r.example': { auth: basic('r:1') }, 'r.example/a': { auth: basic('a:1') } } })
  const find = async (repository: string) => (await files.find('r.example', repository)).credentials
  assert.deepEqual(await find('a/b'), { username: 'ab', password: '1' })
  assert.deepEqual(await find('a/b/c'), { username: 'ab', password: '1' })
  assert.deepEqual(await find('a/bc'), { username: 'a', password: '1' })
  assert.deepEqual(await find('z'), { username: 'r', password: '1' })
})

test('the first file that knows the registry wins, and a changed file is read again', async t => {
  const one = build(t, { auths: { x: { auth: basic('one:1') } } })
  const two = build(t, { auths: { x: { auth: basic('two:1') }, y: { auth: basic('two:1') } } })
  const files = new CredentialFiles({ paths: [one.path, two.path] })
  assert.deepEqual((await files.find('x', 'r')).credentials, { username: 'one', password: '1' })
  assert.deepEqual((await files.find('y', 'r')).credentials, { username: 'two', password: '1' })
  one.write({ auths: { x: { auth: basic('other:12') } } })
  assert.deepEqual((await files.find('x', 'r')).credentials, { username: 'other', password: '12' })
  rmSync(one.path)
  assert.deepEqual((await files.find('x', 'r')).credentials, { username: 'two', password: '1' })
})

test('credential helpers are not run, and the notes say so', async t => {
  const store = build(t, { auths: { x: {} }, credsStore: 'desktop' })
  assert.match((await store.files.find('x', 'r')).notes.join(), /helpers are not run/)
  const helper = build(t, { credHelpers: { 'gcr.io': 'gcloud' } })
  assert.match((await helper.files.find('gcr.io', 'r')).notes.join(), /helpers are not run/)
  assert.deepEqual(await helper.files.find('x', 'r'), { notes: [] })
})

test('a file that is missing is nothing; one that is malformed is a note and one warning without its content', async t => {
  const { files, write, lines, path } = build(t)
  assert.deepEqual(await files.find('x', 'r'), { notes: [] })
  for (const content of ['s3cret', '[]', '{"auths":{"x":"s3cret"}}', '{"auths":{"x":{"auth":"s3cret"}}}', ' '.repeat(1024 ** 2 + 1)]) {
    lines.length = 0
    write(content)
    for (let i = 0; i < 2; i++) {
      const found = await files.find('x', 'r')
      assert.equal(found.credentials, undefined)
      assert.match(found.notes.join(), /an auth file/)
    }
    assert.equal(lines.length, 1, content.slice(0, 40))
    assert.ok(!lines.join().includes('s3cret'))
  }
  rmSync(path)
  mkdirSync(path)
  chmodSync(path, 0o755)
  assert.match((await files.find('x', 'r')).notes.join(), /an auth file/)
})
