/** One trace from who hands in a task to the steps of its sandbox, on a real socket; and a collector that fails harms nothing. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createServer } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { BerthError } from '../../../src/errors.ts'
import type { SandboxRecord } from '../../../src/services/sandboxes/sandbox-record.ts'
import type { SandboxStep } from '../../../src/services/sandboxes/sandbox-steps.ts'
import { StepLadder } from '../../../src/services/sandboxes/step-ladder.ts'
import { activeSpan } from '../../../src/services/tracing/span.ts'
import { readTracingSettings } from '../../../src/services/tracing/tracing-settings.ts'
import { noTracing, openTracing } from '../../../src/services/tracing/tracing.ts'
import { startTraceReceiver } from '../../support/trace-receiver.ts'

const silent = pino({ level: 'silent' })
const version = '1.2.3'
const repo = new URL('../../../', import.meta.url)

const step = (name: string, scope: SandboxStep['scope'], work: () => Promise<void> = async () => {}): SandboxStep => ({
  name, scope, deadlineMs: 1000, acquire: work, release: async () => {},
} as unknown as SandboxStep)

const ladder = (...steps: SandboxStep[]): StepLadder => new StepLadder({ steps, logger: silent, gate: work => work(), onLeak: () => {} })

test('a gateway, a worker and the steps of a sandbox make one trace', async t => {
  const receiver = await startTraceReceiver(t)
  const gateway = await openTracing({ endpoint: receiver.url, serviceName: 'berth-gateway', version, logger: silent })
  const worker = await openTracing({ endpoint: receiver.url, serviceName: 'berth', version, instanceId: 'hst_1', logger: silent })

  const traceparent = await gateway.inSpan('task.push', { 'berth.pool': 'default' }, undefined, async span => gateway.traceparentOf(span))
  await worker.inSpan('task.run', { 'berth.task.id': 'tsk_1', 'berth.attempt': undefined }, traceparent, async () => {
    await ladder(step('image', 'sandbox'), step('network', 'run')).acquire({ timings: [] } as unknown as SandboxRecord, 'all')
  })
  await Promise.all([gateway.close(), worker.close()])

  const [push, run, image, network] = await Promise.all(['task.push', 'task.run', 'sandbox.setup.image', 'sandbox.setup.network'].map(receiver.find))
  assert.ok(push && run && image && network)
  assert.deepEqual([run.parentSpanId, image.parentSpanId, network.parentSpanId], [push.spanId, run.spanId, run.spanId])
  assert.equal(new Set([push, run, image, network].map(({ traceId }) => traceId)).size, 1)
  assert.deepEqual([push.service, run.service], ['berth-gateway', 'berth'])
  assert.deepEqual(run.attributes, { 'berth.task.id': 'tsk_1' })
  assert.ok(image.endedAtMs <= network.startedAtMs + 1 && network.endedAtMs <= run.endedAtMs + 1)
})

test('a step that fails marks its span, and says nothing of what strangers said', async t => {
  const receiver = await startTraceReceiver(t)
  const tracing = await openTracing({ endpoint: receiver.url, serviceName: 'berth', version, logger: silent })
  const failing = ladder(step('image', 'sandbox', async () => { throw new Error('password=hunter2') }))
  await assert.rejects(tracing.inSpan('sandbox.create', {}, undefined, () => failing.acquire({ timings: [] } as unknown as SandboxRecord, 'all')), { step: 'image' })
  await assert.rejects(tracing.inSpan('refused', {}, undefined, async () => { throw new BerthError('exhausted', 'no_room', 'there is no room') }))
  await tracing.close()
  const [create, image, refused] = await Promise.all(['sandbox.create', 'sandbox.setup.image', 'refused'].map(receiver.find))
  assert.deepEqual([create?.status, image?.status, refused?.status], [2, 2, 2])
  assert.equal(refused?.attributes['error.type'], 'no_room')
  assert.ok(!JSON.stringify(receiver.spans).includes('hunter2'))
})

test('a traceparent that is none begins a trace of its own, and one that is not sampled is sent nowhere', async t => {
  const receiver = await startTraceReceiver(t)
  const tracing = await openTracing({ endpoint: receiver.url, serviceName: 'berth', version, logger: silent })
  for (const [index, parent] of ['', 'x', `00-${'0'.repeat(32)}-${'1'.repeat(16)}-01`, `ff-${'1'.repeat(32)}-${'1'.repeat(16)}-01`].entries()) tracing.startSpan(`own ${index}`, { parent }).end()
  const unsampled = tracing.startSpan('unsampled', { parent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-00` })
  assert.match(unsampled.traceparent ?? '', /^00-a{32}-[0-9a-f]{16}-00$/)
  unsampled.end()
  await tracing.close()
  assert.deepEqual(receiver.spans.map(({ name, parentSpanId }) => [name, parentSpanId]), [0, 1, 2, 3].map(index => [`own ${index}`, undefined]))
})

for (const [name, behaviour] of [['is not there', 'closed'], ['refuses everything', 'refusing'], ['never answers', 'mute']] as const) {
  test(`a collector that ${name} harms nothing`, async t => {
    const lines: string[] = []
    const logger = pino({ level: 'warn' }, new Writable({ write (chunk, _encoding, done) { lines.push(String(chunk)); done() } }))
    const endpoint = behaviour === 'refusing' ? (await startTraceReceiver(t, { status: 400 })).url : await deadEnd(t, { isMute: behaviour === 'mute' })
    const tracing = await openTracing({ endpoint, serviceName: 'berth', version, logger })
    const results = await Promise.all(Array.from({ length: 5000 }, (_, index) => tracing.inSpan('work', { index }, undefined, async () => index)))
    assert.equal(results.length, 5000)
    await tracing.close()
    await tracing.close()
    assert.ok(lines.length <= 1, lines.join(''))
    if (behaviour === 'refusing') assert.match(lines[0] ?? '', /takes no spans/)
  })
}

test('where traces are off nothing of OpenTelemetry is loaded, and traces of others pass through', async () => {
  const off = await openTracing({ endpoint: '', serviceName: 'berth', version, logger: silent })
  assert.equal(off, noTracing)
  const given = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`
  assert.equal(await off.inSpan('work', {}, given, async span => off.traceparentOf(span.startChild('child'))), given)
  assert.equal(await off.inSpan('work', {}, undefined, async () => activeSpan()), undefined)
  const script = `
    const { openTracing } = await import('./src/services/tracing/tracing.ts')
    await openTracing({ endpoint: '', serviceName: 'berth', version: '1', logger: {} })
    const { default: module } = await import('node:module')
    const { createRequire } = module
    console.log(Object.keys(createRequire(process.cwd() + '/x.js').cache).filter(name => name.includes('opentelemetry')).length)`
  assert.equal(execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: repo, encoding: 'utf8' }).trim(), '0')
})

test('the environment says where traces go, in our words or in OpenTelemetry\'s', () => {
  const read = (environment: Record<string, string>) => readTracingSettings(environment, 'berth')
  assert.deepEqual(read({}), { endpoint: '', serviceName: 'berth' })
  assert.deepEqual(read({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318/', OTEL_SERVICE_NAME: 'mine' }), { endpoint: 'http://127.0.0.1:4318/v1/traces', serviceName: 'mine' })
  assert.equal(read({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://127.0.0.1:4318/x' }).endpoint, 'http://127.0.0.1:4318/x')
  assert.equal(read({ BERTH_TRACES_ENDPOINT: 'https://127.0.0.1/x', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318' }).endpoint, 'https://127.0.0.1/x')
  assert.equal(read({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318', OTEL_SDK_DISABLED: 'true' }).endpoint, '')
  assert.throws(() => read({ BERTH_TRACES_ENDPOINT: 'collector:4318' }), /BERTH_TRACES_ENDPOINT/)
})

/** A URL at which nobody listens, or somebody takes everything and says nothing. */
async function deadEnd (t: { after: (work: () => unknown) => void }, { isMute }: { isMute: boolean }): Promise<string> {
  const sockets = new Set<{ destroy: () => void }>()
  const server = createServer(socket => { sockets.add(socket.resume().on('error', () => {})) })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const close = async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  }
  if (isMute) t.after(close)
  else await close()
  return `http://127.0.0.1:${port}/v1/traces`
}
