/**
 * Sits at terminals as clients do, in a process of its own: `terminal-client.ts JSON`, a TerminalTask; prints a TerminalFigures.
 * Ours is reached by a WebSocket on the daemon's socket; by hand is node-pty in this process, on a client of the runtime.
 */
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import pty from 'node-pty'
import { WebSocket } from 'ws'
import type { AttachEvent } from '../src/schemas/terminal.ts'

/** Where a terminal of ours is, or the command by which one is had by hand. */
export type TerminalPlace = { socketPath: string, path: string } | { url: string, token: string } | { command: string[] }

export type TerminalTask =
  /** Presses keys at programs that send back what they read, by turns. */
  | { kind: 'echo', places: { ours: TerminalPlace, bare: TerminalPlace }, keys: number, warmUpKeys: number, pauseMs: number }
  /** Has a program print so many bytes, by a line of input. */
  | { kind: 'throughput', place: TerminalPlace, bytes: number }
  /** Reads so many bytes that are kept. */
  | { kind: 'replay', place: TerminalPlace, bytes: number }

export interface TerminalFigures {
  ours: number[]
  bare: number[]
  durationMs: number
  /** Of the bytes, how many came: who reads too slowly is skipped forward. */
  received: number
}

/** What programs say when they take input. */
export const readyText = 'ready'

interface Seat {
  write: (bytes: Buffer) => void
  close: () => void
}

/** Sits down; `onBytes` gets output, and gaps as what is missing. */
async function sitDown (place: TerminalPlace, onBytes: (bytes: Buffer, missing: number) => void): Promise<Seat> {
  if ('command' in place) {
    const [program = '', ...args] = place.command
    const terminal = pty.spawn(program, args, { cols: 80, rows: 24, encoding: null, env: { PATH: process.env['PATH'] ?? '' } })
    terminal.onData(data => onBytes(data as unknown as Buffer, 0))
    return { write: bytes => terminal.write(bytes), close: () => terminal.kill('SIGKILL') }
  }
  const [address, headers] = 'url' in place ? [place.url, { authorization: `Bearer ${place.token}` }] : [`ws+unix://${place.socketPath}:${place.path}`, {}]
  const socket = new WebSocket(address, { headers, perMessageDeflate: false })
  socket.on('message', (data: Buffer, isBinary) => {
    if (isBinary) return onBytes(data, 0)
    const event = JSON.parse(data.toString()) as AttachEvent
    if (event.type === 'gap') onBytes(Buffer.alloc(0), event.bytes)
    if (event.type === 'error') throw new Error(event.message)
  })
  await once(socket, 'open')
  return { write: bytes => socket.send(bytes), close: () => socket.terminate() }
}

/** Sits down at a program that says when it is ready. */
async function sitDownReady (place: TerminalPlace, onBytes: (bytes: Buffer, missing: number) => void): Promise<Seat> {
  const ready = Promise.withResolvers<void>()
  let said = ''
  const seat = await sitDown(place, (bytes, missing) => {
    if (said.endsWith(readyText)) return onBytes(bytes, missing)
    said += bytes.toString('latin1')
    if (said.endsWith(readyText)) ready.resolve()
  })
  await ready.promise
  return seat
}

async function measureEcho ({ places, keys, warmUpKeys, pauseMs }: Extract<TerminalTask, { kind: 'echo' }>): Promise<Partial<TerminalFigures>> {
  const samples = { ours: [] as number[], bare: [] as number[] }
  const seats = await Promise.all((['ours', 'bare'] as const).map(async name => {
    let echoed = Promise.withResolvers<void>()
    const seat = await sitDownReady(places[name], () => echoed.resolve())
    return {
      name,
      seat,
      press: async (key: Buffer) => {
        echoed = Promise.withResolvers()
        const startedMs = performance.now()
        seat.write(key)
        await echoed.promise
        return performance.now() - startedMs
      },
    }
  }))
  for (let key = -warmUpKeys; key < keys; key++) {
    for (const { name, press } of key % 2 === 0 ? seats : seats.toReversed()) {
      const durationMs = await press(Buffer.from('abcdefgh'[(key + warmUpKeys) % 8] ?? ''))
      if (key >= 0) samples[name].push(durationMs)
      await delay(pauseMs)
    }
  }
  for (const { seat } of seats) seat.close()
  return samples
}

async function measureThroughput ({ place, bytes }: Extract<TerminalTask, { kind: 'throughput' }>): Promise<Partial<TerminalFigures>> {
  const done = Promise.withResolvers<void>()
  let [received, passed] = [0, 0]
  const seat = await sitDownReady(place, (piece, missing) => {
    received += piece.length
    passed += piece.length + missing
    if (passed >= bytes) done.resolve()
  })
  const startedMs = performance.now()
  seat.write(Buffer.from('\n'))
  await done.promise
  const durationMs = performance.now() - startedMs
  seat.close()
  if (passed !== bytes) throw new Error(`${passed} bytes came of ${bytes}`)
  return { durationMs, received }
}

async function measureReplay ({ place, bytes }: Extract<TerminalTask, { kind: 'replay' }>): Promise<Partial<TerminalFigures>> {
  const done = Promise.withResolvers<void>()
  let received = 0
  const startedMs = performance.now()
  const seat = await sitDown(place, (piece, missing) => {
    received += piece.length
    if (missing > 0) done.reject(new Error('what was to be replayed is not kept any more'))
    if (received >= bytes) done.resolve()
  })
  await done.promise
  const durationMs = performance.now() - startedMs
  seat.close()
  return { durationMs, received }
}

async function run (task: TerminalTask): Promise<Partial<TerminalFigures>> {
  if (task.kind === 'echo') return await measureEcho(task)
  return task.kind === 'throughput' ? await measureThroughput(task) : await measureReplay(task)
}

if (import.meta.main) {
  const figures = await run(JSON.parse(process.argv[2] ?? '{}') as TerminalTask)
  process.stdout.write(JSON.stringify({ ours: [], bare: [], durationMs: NaN, received: 0, ...figures }), () => process.exit())
}
