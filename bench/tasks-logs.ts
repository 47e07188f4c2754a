/** What a task prints, on its way to one who follows it: how old a line is when it comes, and how many bytes a second come. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import type { Task } from '../src/schemas/task.ts'
import { BareRunsc } from './bare-runsc.ts'
import { readTemplate, type BerthDaemon } from './berth-daemon.ts'
import { endChild } from './child.ts'
import { atLeast, atMost, type Claim } from './claims.ts'
import { mustBe } from './contestant.ts'
import type { FollowResult, FollowTask } from './log-client.ts'
import { quantile } from './statistics.ts'
import type { TaskBenchOptions } from './tasks-whole.ts'
import type { TaskOutcome } from './tasks.ts'

const node = new URL('../bin/node24', import.meta.url).pathname
const clientPath = new URL('./log-client.ts', import.meta.url).pathname
const clientWithinMs = 240_000
const MB = 1e6

const lines = 300
const warmUpLines = 20
const linePause = '0.04'

const throughputBytes = 250 * MB
const throughputRounds = 3
/** Of a log of a program that says much: what conmon adds to each line is little beside it. */
export const printedLine = 'x'.repeat(1023)

/** A program waits for this before it prints, so that whoever follows is there from the first byte on; a follower that comes later would find the beginning on disk. */
const lead = 'sleep 1.5; '

export async function measureLines ({ daemon, signal }: TaskBenchOptions): Promise<TaskOutcome> {
  signal.throwIfAborted()
  const id = await startTask(daemon, `${lead}i=0; while [ $i -lt ${lines + warmUpLines} ]; do echo | ts %.s; i=$((i+1)); sleep ${linePause}; done`)
  // Both at once: they are two of those who may follow.
  const [sse, socket] = await Promise.all([follow(daemon, { logPath: logPathOf(id), by: 'sse', followers: 1, isTimed: true }), follow(daemon, { logPath: logPathOf(id), by: 'websocket', followers: 1, isTimed: true })])
  await endTask(daemon, id)
  const claims = ([['SSE', sse], ['WebSocket', socket]] as const).flatMap(([name, { sincePrinted, sinceRead }]): Claim[] => {
    mustBe(`the number of lines by ${name}`, sincePrinted.length, lines + warmUpLines)
    const [printed, read] = [sincePrinted.slice(warmUpLines), sinceRead.slice(warmUpLines)]
    return [
      { claim: `line → follower by ${name}, half of ${lines} lines`, unit: 'ms', ours: [quantile(read, 0.5)], target: atMost(5) },
      { claim: `line → follower by ${name}, 99 of 100`, unit: 'ms', ours: [quantile(read, 0.99)], target: atMost(50) },
      { claim: `the same from the program's own clock, ${name}, half`, unit: 'ms', ours: [quantile(printed, 0.5)] },
      { claim: `the same from the program's own clock, ${name}, 99 of 100`, unit: 'ms', ours: [quantile(printed, 0.99)] },
    ]
  })
  return { claims, notes: ['a line is as old as conmon says that it read it; by the clock of the program (ts of busybox, in gVisor, a process for each line) its end and the pipe come on top'] }
}

export async function measureThroughput ({ daemon, dir, stack, programs, signal }: TaskBenchOptions & { stack: ResourceStack }): Promise<TaskOutcome> {
  const program = `yes ${printedLine} | head -c ${throughputBytes}`
  const template = await readTemplate(daemon, ['sh', '-c', program], { resources: { cpuMillis: 2000, memoryBytes: 256 * 1024 ** 2 } })
  const bare = await stack.acquire('bare runsc under a monitor', async () => new BareRunsc({ dir: join(dir, 'bare'), path: programs.runsc, echo: template, idle: template }), made => made.close())
  const digest = digestOf(throughputBytes)
  const samples = { bare: [] as number[], text: [] as number[], websocket: [] as number[] }
  for (let round = 0; round < throughputRounds; round++) {
    signal.throwIfAborted()
    samples.bare.push(throughputBytes / MB / (await bare.runLogged(template, programs.conmon) / 1000))
    for (const by of ['text', 'websocket'] as const) {
      const id = await startTask(daemon, `${lead}${program}`)
      const { followers: [followed] } = await follow(daemon, { logPath: logPathOf(id), by, followers: 1 })
      mustBe(`the bytes by ${by}`, followed?.bytes, throughputBytes)
      mustBe(`the digest of the bytes by ${by}`, followed?.digest, digest)
      samples[by].push(throughputBytes / MB / ((followed?.durationMs ?? NaN) / 1000))
      await endTask(daemon, id)
    }
  }
  const other = { name: 'written by conmon and runsc, nobody reads', values: samples.bare }
  return {
    claims: [
      { claim: `log of ${throughputBytes / MB} MB → follower, text`, unit: 'MB/s', ours: samples.text, other, target: atLeast(50) },
      { claim: `log of ${throughputBytes / MB} MB → follower, WebSocket`, unit: 'MB/s', ours: samples.websocket, other, target: atLeast(50) },
    ],
    notes: [`logs are of lines of ${printedLine.length + 1} bytes, printed as fast as they are taken`],
  }
}

export const logPathOf = (taskId: string) => `/v1/tasks/${taskId}/logs`

export async function startTask (daemon: BerthDaemon, program: string): Promise<string> {
  const { id } = await daemon.request<Task>('POST', '/v1/tasks', 201, { image: 'berth/base', entrypoint: ['sh', '-c', program], resources: { cpuMillis: 2000, memoryBytes: 256 * 1024 ** 2 } })
  return id
}

/** Until the task has ended well; then it is deleted, with its log. */
export async function endTask (daemon: BerthDaemon, id: string): Promise<void> {
  const { status, end } = await daemon.request<Task>('GET', `/v1/tasks/${id}/wait?timeoutMs=120000`, 200)
  if (status !== 'complete') throw new Error(`a task ended otherwise: ${JSON.stringify(end)}`)
  await daemon.request('DELETE', `/v1/tasks/${id}`, 204)
}

/** Runs clients in a process of their own; `onReady` is called when all are connected. */
export async function follow (daemon: BerthDaemon, task: Omit<FollowTask, 'socketPath'>, onReady?: (client: ChildProcess) => void): Promise<FollowResult> {
  const client = spawn(node, [clientPath, JSON.stringify({ ...task, socketPath: join(daemon.runDir, 'berth.sock') } satisfies FollowTask)], { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const timer = setTimeout(() => client.kill('SIGKILL'), clientWithinMs)
  try {
    let errors = ''
    client.stderr.setEncoding('utf8').on('data', (piece: string) => {
      if (piece.startsWith('ready\n')) onReady?.(client)
      else errors += piece
    })
    const closed = once(client, 'close')
    const output = await text(client.stdout)
    await closed
    if (client.exitCode !== 0) throw new Error(`whoever followed ended with ${client.exitCode ?? client.signalCode}: ${errors}`)
    return JSON.parse(output) as FollowResult
  } finally {
    clearTimeout(timer)
    await endChild(client, 'SIGKILL')
  }
}

/** SHA-1 of so many bytes of printed lines. */
export function digestOf (bytes: number): string {
  const line = Buffer.from(`${printedLine}\n`)
  const hash = createHash('sha1')
  const block = Buffer.concat(Array.from({ length: 1024 }, () => line))
  for (let rest = bytes; rest > 0; rest -= block.length) hash.update(block.subarray(0, Math.min(rest, block.length)))
  return hash.digest('hex')
}
