/** Terminals: from a key to its echo, how much they print a second, and how soon what they printed is there again. */
import { join } from 'node:path'
import type { Terminal, TerminalCreate } from '../src/schemas/terminal.ts'
import { runChild } from './child.ts'
import { atLeastRatio, atMost } from './claims.ts'
import { mustBe } from './contestant.ts'
import type { InsideBench } from './inside.ts'
import { quantile } from './statistics.ts'
import type { TaskOutcome } from './tasks.ts'
import { readyText, type TerminalFigures, type TerminalPlace, type TerminalTask } from './terminal-client.ts'

const node = new URL('../bin/node24', import.meta.url).pathname
const clientPath = new URL('./terminal-client.ts', import.meta.url).pathname
const clientWithinMs = 180_000
const MB = 1e6
const MiB = 1024 ** 2

const keys = 1000
const warmUpKeys = 100
/** Longer than everything takes: each key finds everyone asleep, as those of a person do. */
const keyPauseMs = 5

const throughputRounds = 3
const printedPath = '/workspace/printed'
const replayedBytes = 8 * MiB

/** A program at a terminal that changes no byte. */
export const raw = (program: string): string[] => ['sh', '-c', `stty raw -echo; printf ${readyText}; ${program}`]

export async function createTerminal ({ daemon, sandboxId }: InsideBench, input: Partial<TerminalCreate>): Promise<Terminal> {
  return await daemon.request<Terminal>('POST', `/v1/sandboxes/${sandboxId}/terminals`, 201, { cols: 80, rows: 24, ...input })
}

export async function removeTerminal ({ daemon, sandboxId }: InsideBench, { id }: Terminal): Promise<void> {
  await daemon.request('DELETE', `/v1/sandboxes/${sandboxId}/terminals/${id}`, 204)
}

export async function measureEchoes (bench: InsideBench): Promise<TaskOutcome> {
  const argv = raw('exec cat')
  const terminal = await createTerminal(bench, { argv })
  const figures = await sit({ kind: 'echo', places: { ours: placeOf(bench, terminal, 0), bare: { command: await bench.byHand(argv, true) } }, keys: bench.isQuick ? keys / 10 : keys, warmUpKeys, pauseMs: keyPauseMs })
  await removeTerminal(bench, terminal)
  const { ours, bare } = figures
  const other = (share: number) => ({ name: 'node-pty by hand', values: [quantile(bare, share)] })
  const above = (share: number) => [quantile(ours, share) - quantile(bare, share)]
  return {
    claims: [
      { claim: `key → echo, half of ${ours.length} keys, above node-pty by hand`, unit: 'ms', ours: above(0.5), target: atMost(1) },
      { claim: 'key → echo, 99 of 100, above node-pty by hand', unit: 'ms', ours: above(0.99), target: atMost(5) },
      { claim: `key → echo, half of ${ours.length} keys`, unit: 'ms', ours: [quantile(ours, 0.5)], other: other(0.5) },
      { claim: 'key → echo, 99 of 100', unit: 'ms', ours: [quantile(ours, 0.99)], other: other(0.99) },
    ],
    notes: ['keys go to cat at a raw terminal of gVisor, ours through a WebSocket, the daemon and the pty-host, and back; by hand is node-pty on a runsc exec in the same sandbox, by turns with ours'],
  }
}

export async function measureTerminalThroughput (bench: InsideBench): Promise<TaskOutcome> {
  const bytes = bench.isQuick ? 10 * MB : 100 * MB
  await bench.run(['sh', '-c', `yes 'a line of sixty-three characters, which is as long as it gets..' | head -c ${bytes} > ${printedPath}`])
  const argv = raw(`read _; exec cat ${printedPath}`)
  const samples = { ours: [] as number[], bare: [] as number[] }
  const shares: number[] = []
  for (let round = 0; round < throughputRounds; round++) {
    for (const name of round % 2 === 0 ? ['ours', 'bare'] as const : ['bare', 'ours'] as const) {
      bench.signal.throwIfAborted()
      const terminal = name === 'ours' ? await createTerminal(bench, { argv }) : undefined
      const { durationMs, received } = await sit({ kind: 'throughput', place: terminal ? placeOf(bench, terminal, 0) : { command: await bench.byHand(argv, true) }, bytes })
      samples[name].push(bytes / MB / (durationMs / 1000))
      if (name === 'ours') shares.push(received / bytes)
      if (terminal) await removeTerminal(bench, terminal)
    }
  }
  return {
    claims: [
      { claim: `cat of ${bytes / MB} MB at a terminal`, unit: 'MB/s', ours: samples.ours, other: { name: 'node-pty by hand', values: samples.bare }, target: atLeastRatio(0.8) },
      { claim: 'of it, what a viewer got and was not skipped', unit: '', ours: shares },
    ],
    notes: [],
  }
}

export async function measureReplay (bench: InsideBench): Promise<TaskOutcome> {
  const terminal = await createTerminal(bench, { argv: raw(`yes 'a line of sixty-three characters, which is as long as it gets..' | head -c ${replayedBytes}; sleep 1000`) })
  const end = readyText.length + replayedBytes
  while (await endOffset(bench, terminal) < end) bench.signal.throwIfAborted()
  const samples: number[] = []
  for (let round = -1; round < bench.rounds; round++) {
    bench.signal.throwIfAborted()
    const { durationMs, received } = await sit({ kind: 'replay', place: placeOf(bench, terminal, end - replayedBytes), bytes: replayedBytes })
    mustBe('the bytes of a replay', received, replayedBytes)
    if (round >= 0) samples.push(durationMs)
  }
  await removeTerminal(bench, terminal)
  return { claims: [{ claim: 'replay of 8 MiB, from the connection on', unit: 'ms', ours: samples, target: atMost(150) }], notes: [] }
}

async function endOffset ({ daemon, sandboxId }: InsideBench, { id }: Terminal): Promise<number> {
  return (await daemon.request<Terminal>('GET', `/v1/sandboxes/${sandboxId}/terminals/${id}`, 200)).output.endOffset
}

const placeOf = ({ daemon, sandboxId }: InsideBench, { id }: Terminal, since: number): TerminalPlace =>
  ({ socketPath: join(daemon.runDir, 'berth.sock'), path: `/v1/sandboxes/${sandboxId}/terminals/${id}/attach?since=${since}` })

/** Runs a client in a process of its own. */
export async function sit (task: TerminalTask): Promise<TerminalFigures> {
  const { exitCode, stdout, stderr } = await runChild(node, [clientPath, JSON.stringify(task)], { timeout: clientWithinMs })
  if (exitCode !== 0) throw new Error(`whoever sat at a terminal ended with ${exitCode}: ${stderr}`)
  return JSON.parse(stdout) as TerminalFigures
}
