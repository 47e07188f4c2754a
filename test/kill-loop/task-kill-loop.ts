/** Kills a daemon at random moments while tasks of many kinds are pushed and run, and holds each against what it was to be. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { QueueStatus } from '../../src/schemas/task.ts'
import { TestDaemon, type Teardown } from '../support/test-daemon.ts'
import { killAgainAndAgain } from './killing.ts'
import { Ledger } from './ledger.ts'
import { PatientClient } from './patient-client.ts'
import { seededRandom } from './random.ts'
import { TaskCalls } from './task-calls.ts'
import { checkHost, checkTasks } from './task-checks.ts'
import { haveAllEnded, judgeEvents } from './task-events.ts'
import { limitedLabel, type TaskWorld } from './task-kinds.ts'
import { pushTasks, type PushedTask } from './task-load.ts'
import { WebhookReceiver } from './webhook-receiver.ts'

export interface TaskKillLoopOptions {
  kills: number
  tasks: number
  seed: number
  onKill?: (kill: number) => void
}

export interface TaskKillLoopSummary {
  kills: number
  killsWhileStarting: number
  /** How many there were before the last task had ended. */
  killsUnderLoad: number
  tasks: number
  /** How often attempts were given back without having counted. */
  returned: number
  durationMs: number
  lostConnections: number
  logBytes: number
  done: Record<string, number>
  /** Every promise that was broken, and everything that was left. Empty: nothing was lost. */
  broken: string[]
}

const longestLifeMs = 1200
const killsWhileStartingShare = 0.35

export async function runTaskKillLoop (t: Teardown, options: TaskKillLoopOptions): Promise<TaskKillLoopSummary> {
  const startedMs = performance.now()
  const random = seededRandom(options.seed)
  const dir = await mkdtemp(join(tmpdir(), 'berth-kill-loop-'))
  const receiver = await WebhookReceiver.start(t, random)
  const daemon = await TestDaemon.start(t, {
    env: {
      BERTH_LOG_LEVEL: 'debug',
      BERTH_NETWORK_POOL_SIZE: '4',
      BERTH_OUTPUT_DIR: join(dir, 'files'),
      BERTH_TASK_LABEL_LIMITS: `${limitedLabel.name}=${limitedLabel.value}:${limitedLabel.max}`,
    },
  })
  // Behind the daemon's end, which may still deliver into it.
  t.after(() => rm(dir, { recursive: true, force: true }))
  const calls = new TaskCalls(new PatientClient(daemon.socketPath), new Ledger(), receiver)
  const { ledger } = calls
  const { body: { free } } = await calls.client.send<QueueStatus>('GET', '/queue')
  const world: TaskWorld = { random, calls, outputDir: join(dir, 'files'), webhookUrl: receiver.url }
  const killedAt: number[] = []
  const collecting = new AbortController()
  let tasks: PushedTask[] = []
  const events = calls.collectEvents('task.created,task.status', collecting.signal, seen => haveAllEnded(seen, tasks)).catch(() => [])
  const pushing = pushTasks(world, options.tasks, () => killedAt.length / options.kills)
  const killsWhileStarting = await killAgainAndAgain(daemon, random, {
    kills: options.kills,
    longestLifeMs,
    killsWhileStartingShare,
    onKill: kill => {
      killedAt.push(Date.now())
      receiver.isDown = kill > options.kills * 0.2 && kill < options.kills * 0.5
      options.onKill?.(kill)
    },
  })
  tasks = await pushing
  ledger.expect(await calls.untilAllEnded(), () => 'some tasks never end')
  await Promise.all(tasks.map(({ meanwhile }) => meanwhile))
  collecting.abort()
  const { logBytes, returned, lastEndMs } = await checkTasks(calls, tasks)
  for (const problem of judgeEvents(await events, tasks)) ledger.blame(problem)
  await checkHost(daemon, calls, free)
  return {
    kills: options.kills,
    killsWhileStarting,
    killsUnderLoad: killedAt.filter(at => at < lastEndMs).length,
    tasks: tasks.length,
    returned,
    durationMs: performance.now() - startedMs,
    lostConnections: calls.client.losses,
    logBytes,
    done: Object.fromEntries([...ledger.done].sort()),
    broken: ledger.broken,
  }
}
