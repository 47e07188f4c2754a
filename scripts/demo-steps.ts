/** What `npm run demo` shows and starts: progress lines, the daemon, the command line. */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { once } from 'node:events'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { repo } from './checks.ts'
import { pc } from './print.ts'

export const interruption = new AbortController()

/** Runs a step under a line that says what it is, and then whether it went well and how long it took. */
export async function step<T> (what: string, work: () => Promise<T>): Promise<T> {
  const startedAt = performance.now()
  // On a terminal the line stands while the step runs; in a pipe it comes whole.
  if (process.stdout.isTTY) process.stdout.write(`${pc.cyan('…')}  ${what}`)
  const end = (sign: string): void => {
    const time = pc.dim(`(${Math.round(performance.now() - startedAt)} ms)`)
    process.stdout.write(`${process.stdout.isTTY ? '\r' : ''}${sign} ${what} ${time}\n`)
  }
  try {
    const result = await work()
    end(pc.green('ok'))
    return result
  } catch (error) {
    end(pc.red('no'))
    throw error
  }
}

export function show (text: string): void {
  for (const line of text.trimEnd().split('\n')) console.log(`      ${pc.dim('│')} ${line}`)
}

export interface Places {
  tempDir: string
  stateDir: string
  runDir: string
  socket: string
  daemonLog: string
}

const readyTimeoutMs = 30_000
const readyPollMs = 20
const commandTimeoutMs = 60_000

const daemons = new Set<ChildProcess>()

/** Starts the daemon and waits until it answers that it is ready. */
export async function startDaemon (places: Places): Promise<ChildProcess> {
  const daemon = spawnBerth([...serveArgs(places)], places)
  daemons.add(daemon)
  const deadline = Date.now() + readyTimeoutMs
  while (!await isReady(places.socket)) {
    interruption.signal.throwIfAborted()
    if (hasEnded(daemon)) throw new Error(`the daemon ended at once (${daemon.signalCode ?? daemon.exitCode})`)
    if (Date.now() > deadline) throw new Error(`the daemon was not ready after ${readyTimeoutMs / 1000} s`)
    await delay(readyPollMs)
  }
  return daemon
}

/** Sends the signal and waits for the end. */
export async function endDaemon (daemon: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (hasEnded(daemon)) return
  const ended = once(daemon, 'exit')
  daemon.kill(signal)
  await ended
}

/** Ends every daemon that was started, ready or not. */
export async function endDaemons (): Promise<void> {
  for (const daemon of daemons) await endDaemon(daemon, 'SIGTERM')
}

/** Ends and removes everything that belongs to the directories. */
export async function reclaim (places: Places): Promise<void> {
  const program = spawnBerth([...serveArgs(places), '--reclaim-and-exit'], places)
  if (!hasEnded(program)) await once(program, 'exit')
  if (program.exitCode !== 0) throw new Error(`berth serve --reclaim-and-exit ended with ${program.signalCode ?? program.exitCode}`)
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode !== null || signalCode !== null

const serveArgs = ({ stateDir, runDir, socket }: Places): string[] =>
  ['serve', '--state-dir', stateDir, '--run-dir', runDir, '--listen', '127.0.0.1:0', '--socket', socket]

function spawnBerth (args: string[], { daemonLog }: Places): ChildProcess {
  const log = openSync(daemonLog, 'a')
  // In a group of its own: Ctrl-C is for the demo, which then ends the daemon in order.
  const child = spawn(join(repo, 'bin/berth'), args, { detached: true, stdio: ['ignore', log, log] })
  closeSync(log)
  return child
}

async function isReady (socketPath: string): Promise<boolean> {
  return await new Promise((resolve) => {
    request({ socketPath, path: '/readyz', signal: AbortSignal.timeout(1_000) }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    }).on('error', () => resolve(false)).end()
  })
}

/** Runs `bin/berth` with the arguments against the demo's daemon, and answers with what it wrote. */
export async function berth (places: Places, ...args: string[]): Promise<string> {
  interruption.signal.throwIfAborted()
  const child = spawn(join(repo, 'bin/berth'), args, {
    env: { ...process.env, BERTH_SOCKET: places.socket, BERTH_URL: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: commandTimeoutMs,
  })
  let out = ''
  let err = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => { out += text })
  child.stderr.setEncoding('utf8').on('data', (text: string) => { err += text })
  const [exitCode, signal] = await once(child, 'close') as [number | null, string | null]
  if (exitCode !== 0) throw new Error(`berth ${args[0]} ended with ${signal ?? exitCode}:\n${(err || out).trim()}`)
  return out
}

export function lastLogLines ({ daemonLog }: Places, count = 20): string {
  return existsSync(daemonLog) ? readFileSync(daemonLog, 'utf8').trimEnd().split('\n').slice(-count).join('\n') : ''
}
