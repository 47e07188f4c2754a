/** Many who follow one task that says much: all of them get all of it, and the daemon grows no more than little for each. */
import { readFile, writeFile } from 'node:fs/promises'
import { atLeast, atMost } from './claims.ts'
import { mustBe } from './contestant.ts'
import { digestOf, endTask, follow, logPathOf, printedLine, startTask } from './tasks-logs.ts'
import type { TaskBenchOptions } from './tasks-whole.ts'
import type { TaskOutcome } from './tasks.ts'

const followers = 200
const seconds = 3
const megabytesPerSecond = 10
const MB = 1e6
/** A part of a second's worth is printed at once, by a program that keeps the time. */
const piecesPerSecond = 4

export async function measureFollowers ({ daemon, signal }: TaskBenchOptions): Promise<TaskOutcome> {
  signal.throwIfAborted()
  const pieceBytes = Math.round(megabytesPerSecond * MB / piecesPerSecond / 1024) * 1024
  const pieces = seconds * piecesPerSecond
  // Followers come while it waits.
  const program = `yes ${printedLine} | head -c ${pieceBytes} > piece; sleep 6; i=0; while [ $i -lt ${pieces} ]; do sleep ${1 / piecesPerSecond} & cat piece; wait; i=$((i+1)); done`
  const before = await readRss(daemon.pid)
  const id = await startTask(daemon, program)
  const result = await follow(daemon, { logPath: logPathOf(id), by: 'websocket', followers }, () => { void resetPeak(daemon.pid) })
  const peak = await readPeak(daemon.pid)
  await endTask(daemon, id)
  const digest = digestOf(pieceBytes * pieces)
  const whole = result.followers.filter(followed => followed.digest === digest)
  for (const followed of result.followers) mustBe('the bytes of a follower', followed.bytes, pieceBytes * pieces)
  const slowestMs = Math.max(...result.followers.map(({ durationMs }) => durationMs))
  const resumed = result.followers.reduce((sum, followed) => sum + followed.resumed, 0)
  await new Promise(resolve => setTimeout(resolve, 5000))
  const after = await readRss(daemon.pid)
  return {
    claims: [
      { claim: `${followers} followers by WebSocket of one task at ${megabytesPerSecond} MB/s: have all bytes`, unit: '', ours: [whole.length], target: atLeast(followers) },
      { claim: 'the same: bytes that were sent, of all', unit: 'MB/s', ours: [followers * pieceBytes * pieces / MB / (slowestMs / 1000)] },
      { claim: 'the same: the daemon\'s RSS at its peak, beyond that before', unit: 'MB', ours: [peak - before], other: { name: 'RSS before', values: [before] }, target: atMost(followers) },
      { claim: 'the same: RSS five seconds later', unit: 'MB', ours: [after], other: { name: 'RSS before', values: [before] } },
    ],
    notes: [`${followers} followers had the last of ${(pieceBytes * pieces / MB).toFixed(0)} MB ${(slowestMs / 1000).toFixed(1)} s after the first, and read on from a cursor ${resumed} times`],
  }
}

async function readRss (pid: number): Promise<number> {
  return await readMegabytes(pid, 'VmRSS')
}

/** Its highest RSS since it was reset (proc(5), clear_refs). */
async function readPeak (pid: number): Promise<number> {
  return await readMegabytes(pid, 'VmHWM')
}

async function resetPeak (pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, '5')
}

async function readMegabytes (pid: number, field: string): Promise<number> {
  const kibibytes = Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(await readFile(`/proc/${pid}/status`, 'latin1'))?.[1] ?? NaN)
  return kibibytes * 1024 / MB
}
