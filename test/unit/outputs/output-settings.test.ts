import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import type { OutputSpec } from '../../../src/schemas/output.ts'
import { checkOutputSpecs, parseOutputs, viewOf, type OutputSettings } from '../../../src/services/outputs/output-settings.ts'

const all: OutputSettings = { hasOutputDir: true, hasS2: true, s2Basin: 'the-basin' }
const check = (specs: OutputSpec[], settings: Partial<OutputSettings> = {}): void => { checkOutputSpecs(specs, { ...all, ...settings }) }
const refused = (specs: OutputSpec[], words: RegExp, settings: Partial<OutputSettings> = {}): void => {
  assert.throws(() => check(specs, settings), (error: BerthError) => error.kind === 'invalid_argument' && error.code === 'invalid_output' && words.test(error.message))
}

test('outputs with what they need are fine', () => {
  check([])
  check([{ type: 'console' }, { type: 'file' }, { type: 's2' }, { type: 'webhook', url: 'https://a.test/x', secret: 'sixteen letters!' }])
  check([{ type: 'file' }, { type: 'file', format: 'ndjson' }, { type: 'file', name: 'a.log' }])
  check([{ type: 's2', basin: 'another-basin' }], { s2Basin: '' })
  check([{ type: 'webhook', url: 'http://127.0.0.1:8080', secret: `whsec_${Buffer.alloc(24, 7).toString('base64')}` }])
})

test('what does not fit together is refused, with the place and without the secret', () => {
  refused([{ type: 'console' }, { type: 'console', url: 'http://a.test' }], /outputs\[1\]: url does not belong/)
  refused([{ type: 'file', secret: 'sixteen letters!' }], /^(?!.*sixteen).*secret does not belong/)
  refused([{ type: 'webhook', url: 'http://a.test', name: 'x' }], /name does not belong/)
  refused([{ type: 'webhook' }], /needs a url/)
  for (const url of ['http://', 'https://:80', 'ftp://a.test']) refused([{ type: 'webhook', url }], /must be an http/)
  refused([{ type: 'webhook', url: 'https://user:pass@a.test' }], /^(?!.*pass@).*user name or password/)
  refused([{ type: 'webhook', url: 'http://a.test', secret: 'whsec_not base64 at all' }], /base64 of at least 16 bytes/)
  refused([{ type: 'webhook', url: 'http://a.test', secret: `whsec_${Buffer.alloc(8).toString('base64')}` }], /base64 of at least 16 bytes/)
  refused([{ type: 'file' }], /BERTH_OUTPUT_DIR/, { hasOutputDir: false })
  refused([{ type: 's2' }], /BERTH_S2_ACCESS_TOKEN_FILE/, { hasS2: false })
  refused([{ type: 's2' }], /BERTH_S2_BASIN/, { s2Basin: '' })
  refused([{ type: 'console' }, { type: 'console' }], /outputs\[1\]: it goes where another/)
  refused([{ type: 'file', name: 'a' }, { type: 'file', name: 'a', format: 'ndjson' }], /goes where another/)
})

test('the host\'s outputs are words or JSON', () => {
  assert.deepEqual(parseOutputs(''), [])
  assert.deepEqual(parseOutputs(' console, s2 '), [{ type: 'console' }, { type: 's2' }])
  assert.deepEqual(parseOutputs('[{"type":"webhook","url":"http://a.test","secret":"sixteen letters!"}]'), [{ type: 'webhook', url: 'http://a.test', secret: 'sixteen letters!' }])
  assert.throws(() => parseOutputs('console,nothing'), /one of console, file, s2, webhook/)
  for (const text of ['[', '[1]', '[null]', '[{}]', '[{"type":"__proto__"}]', '[{"type":"console","no":"1"}]', '[{"type":"file","name":"../x"}]', '[{"type":"file","format":"xml"}]', '[{"type":"file","name":1}]',
    JSON.stringify(Array(9).fill({ type: 'console' }))]) {
    assert.throws(() => parseOutputs(text), text)
  }
  assert.throws(() => parseOutputs('[{"type":"webhook","secret":"geheim"}]'), (error: Error) => !error.message.includes('geheim'))
})

test('a view says that there is a secret, and not which', () => {
  assert.deepEqual(viewOf({ type: 'webhook', url: 'http://a.test', secret: 'sixteen letters!' }), { type: 'webhook', url: 'http://a.test', isSigned: true })
  assert.deepEqual(viewOf({ type: 'webhook', url: 'http://a.test' }), { type: 'webhook', url: 'http://a.test', isSigned: false })
  assert.deepEqual(viewOf({ type: 'file', name: 'a' }), { type: 'file', name: 'a' })
})
