/** The whole way of output: a log file that grows, the outputs of the host, and S2 that is away for most of the time. */
import assert from 'node:assert/strict'
import { appendFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import pino from 'pino'
import { LogReader } from '../../../src/services/logs/log-reader.ts'
import { OutputManager } from '../../../src/services/outputs/output-manager.ts'
import type { OutputTask } from '../../../src/services/outputs/output-task.ts'
import { countS2Clients } from '../../../src/services/outputs/s2-client.ts'
import { openS2Sink } from '../../../src/services/outputs/s2-sink.ts'
import { s2Basin, S2Rig, statusStream, taskId } from '../../support/s2-stream-rig.ts'

const lineCount = 3000

test('an outage with restarts of the daemon in it, slow and lost acknowledgements: all output and statuses arrive once, in order', async t => {
  const rig = await S2Rig.start(t)
  const { server } = rig
  const dir = await mkdtemp(join(tmpdir(), 'berth-outage-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const logDir = join(dir, 'log')
  await mkdir(logDir)
  let isEnded = false
  const statuses = [{ seq: 0, at: '2026-01-01T00:00:00.000Z', status: 'running', attempt: 1 }]
  const task: OutputTask = { id: taskId, outputs: [{ type: 's2' }], labels: {}, isEnded: () => isEnded, statuses: () => statuses }
  let isDone = false
  const start = (): OutputManager => {
    const manager = new OutputManager({
      logs: new LogReader(),
      logDir: () => logDir,
      outputsDir: () => join(dir, 'outputs'),
      openSink: request => openS2Sink({ ...request, basin: s2Basin, endpoint: server.endpoint, accessToken: server.token, logger: pino({ level: 'silent' }), requestTimeoutMs: 500 }),
      logger: pino({ level: 'silent' }),
      onDone: () => { isDone = true },
      times: { backoff: { firstMs: 5, mostMs: 20 }, maxDelayMs: 2, checkpointMs: 20, settleMs: 500 },
    })
    manager.begin(task)
    return manager
  }
  const arrived = (): number => server.records(s2Basin, `task.${taskId}.logs`).length
  const until = async (isSo: () => boolean): Promise<void> => { while (!isSo()) await sleep(5) }

  let written = 0
  const write = async (count: number): Promise<void> => {
    const lines = Array.from({ length: count }, (_, index) => `2026-01-01T00:00:00.000000000+00:00 ${index % 5 === 0 ? 'stderr' : 'stdout'} F line ${written + index}\n`)
    written += count
    await appendFile(join(logDir, 'log'), lines.join(''))
  }
  server.faults.ackDelayMs = 2
  let manager = start()
  await write(500)
  await until(() => arrived() >= 100)
  // The outage, with two daemons that begin and end in it, and one that goes on after it.
  await server.front.goAway()
  for (let restart = 0; restart < 2; restart++) {
    await write(500)
    await sleep(50)
    await manager.close()
    manager = start()
  }
  await until(() => manager.protectedGeneration(taskId) === 0)
  await server.front.comeBack()
  server.faults.loseAcks = 2
  await until(() => arrived() >= 800)
  // A daemon that ends in the middle of deliveries, whose acknowledgements never come.
  server.faults.ackDelayMs = 5000
  await write(500)
  await until(() => arrived() >= 1200)
  await manager.close()
  server.faults.ackDelayMs = 1
  manager = start()
  await write(lineCount - written)
  isEnded = true
  statuses.push({ seq: 1, at: '2026-01-01T01:00:00.000Z', status: 'complete', attempt: 1 })
  manager.wake(taskId)
  await until(() => isDone)
  await manager.close()

  rig.assertLogs(lineCount)
  assert.deepEqual(rig.logs().map(({ data }) => data), Array.from({ length: lineCount }, (_, index) => `line ${index}`))
  assert.deepEqual(server.bodies<{ status: string }>(s2Basin, statusStream).map(({ status }) => status), ['running', 'complete'])
  assert.equal(countS2Clients(), 0)
})
