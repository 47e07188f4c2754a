import { accessSync, constants as fsConstants } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { BerthError } from '../errors.ts'
import { OutputCollector } from '../lib/output-collector.ts'
import { raceWithDelay } from '../lib/race.ts'
import { startPiped } from './spawn.ts'

export interface CommandResult {
  /** Exit code; 128 + n when a signal ended the program, 124 when its time ran out. */
  exitCode: number
  stdout: string
  stderr: string
}

export interface CommandOptions {
  timeoutMs?: number
  input?: string
  /** Output kept of each stream; the rest is dropped. */
  maxOutputBytes?: number
  cwd?: string
  signal?: AbortSignal
}

/**
 * What a host program sees of the daemon's environment: nothing but a fixed PATH and locale. The first directory is where
 * `npm run setup` puts programs that a distribution has only in versions that are too old, so they win over those.
 */
export const cleanEnv: Readonly<Record<string, string>> = Object.freeze({
  PATH: '/usr/local/lib/berth/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
})

const defaultTimeoutMs = 30_000

/**
 * Runs a short host program to its end: argv, never a shell; a clean environment; bounded time and output.
 * A non-zero exit is an answer, not an error.
 *
 * @throws BerthError unavailable `program_not_found` when there is no such program.
 */
export async function runCommand (file: string, args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const { timeoutMs = defaultTimeoutMs, input = '', maxOutputBytes = 1024 * 1024, cwd = '/', signal } = options
  signal?.throwIfAborted()
  const path = findProgram(file)
  if (!path) throw new BerthError('unavailable', 'program_not_found', `the program ${file} is not installed on this host; run: berth doctor`)
  const program = startPiped(path, { argv: [file, ...args], env: cleanEnv, cwd, isSessionLeader: false })
  let hasTimedOut = false
  const timer = setTimeout(() => { hasTimedOut = true; program.kill('SIGKILL') }, timeoutMs)
  const onAbort = () => program.kill('SIGKILL')
  signal?.addEventListener('abort', onAbort, { once: true })
  // It may end without reading its input.
  program.stdin.on('error', () => {})
  program.stdin.end(input)
  const [stdout, stderr] = [collect(program.stdout, maxOutputBytes), collect(program.stderr, maxOutputBytes)]
  try {
    const { exitCode, signalNumber } = await program.ended
    await raceWithDelay(drainMs, [Promise.all([stdout.complete, stderr.complete])])
    signal?.throwIfAborted()
    return {
      exitCode: hasTimedOut ? 124 : exitCode ?? (signalNumber === undefined ? 125 : 128 + signalNumber),
      stdout: stdout.text(),
      stderr: stderr.text(),
    }
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
    program.stdout.destroy()
    program.stderr.destroy()
  }
}

/** A process that the program left behind may hold its pipes: what is in them by then is read, no more. */
const drainMs = 1000

/** Reads a stream to its end and keeps the beginning. */
function collect (stream: Readable, maxBytes: number): { complete: Promise<void>, text: () => string } {
  const collector = new OutputCollector(maxBytes)
  const { promise: complete, resolve } = Promise.withResolvers<void>()
  stream.on('data', (chunk: Buffer) => collector.add(chunk))
  stream.on('error', () => resolve())
  stream.on('close', () => resolve())
  return { complete, text: () => collector.text('utf8') }
}

/** The path of a program in the directories where a host keeps its own, or undefined. A path is taken as it is. */
export function findProgram (name: string): string | undefined {
  const paths = name.includes('/') ? [name] : (cleanEnv['PATH'] ?? '').split(':').map(dir => join(dir, name))
  return paths.find(isExecutable)
}

function isExecutable (path: string): boolean {
  try {
    accessSync(path, fsConstants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Signal numbers by name, as this kernel has them. */
export const signalNumbers: Readonly<Record<string, number>> = Object.freeze({ ...constants.signals })

// signal(7) as glibc has it: it keeps the first two real-time signals for itself.
const firstRealTimeSignal = 34
const lastSignal = 64

/** The number of a signal as an image writes it: `SIGQUIT`, `quit`, `3` or `SIGRTMIN+3` (signal(7), glibc's real-time range); undefined for anything else. */
export function signalNumber (text: string): number | undefined {
  const name = text.trim().toUpperCase().replace(/^SIG/, '')
  const [, realTime] = /^RTMIN\+(\d{1,2})$/.exec(name) ?? []
  const number = realTime === undefined ? (/^\d{1,2}$/.test(name) ? Number(name) : signalNumbers[`SIG${name}`]) : firstRealTimeSignal + Number(realTime)
  return number !== undefined && number >= 1 && number <= lastSignal ? number : undefined
}

/** The name of a signal by its number, or undefined. */
export function signalName (number: number): string | undefined {
  return Object.entries(signalNumbers).find(([, value]) => value === number)?.[0]
}
