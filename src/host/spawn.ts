/** Programs of the host as children of this process: started without a fork, reaped by us, never by a shell. */
import { closeSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { growPipe, makePipe, reapProcess, spawnProcess, type SpawnOptions } from './libc.ts'

export interface ProgramEnd {
  /** undefined when a signal ended it, or when nobody knows. */
  exitCode?: number
  signalNumber?: number
}

/** A child that has been started. */
export interface Program {
  pid: number
  /** Never rejects. */
  ended: Promise<ProgramEnd>
  /** One that has ended is fine. */
  kill: (signal: NodeJS.Signals) => void
}

/** A child with pipes at its standard streams. */
export interface PipedProgram extends Program {
  stdin: Writable
  stdout: Readable
  stderr: Readable
}

export interface PipedOptions extends Omit<SpawnOptions, 'stdio'> {
  /** What the pipes at its standard input and output hold, where 64 KiB are too little to be quick. */
  pipeBytes?: number | undefined
}

/** Children that have not been reaped: their pids cannot be given to anybody else. */
const unreaped = new Map<number, (end: ProgramEnd) => void>()
let safetyNet: NodeJS.Timeout | undefined
// A signal that arrives while another is handled may be lost between the two.
const safetyNetMs = 500

/** Starts a program by its path. Throws an Error with `code` when it cannot be executed. */
export function startProgram (path: string, options: SpawnOptions): Program {
  if (unreaped.size === 0) {
    process.on('SIGCHLD', reap)
    safetyNet = setInterval(reap, safetyNetMs)
  }
  const { promise: ended, resolve } = Promise.withResolvers<ProgramEnd>()
  try {
    const pid = spawnProcess(path, options)
    unreaped.set(pid, resolve)
    return {
      pid,
      ended,
      kill: signal => {
        if (unreaped.has(pid)) process.kill(pid, signal)
      },
    }
  } finally {
    stopReapingWhenIdle()
  }
}

/**
 * Starts a program with real pipes. Node's own children get socket pairs, which differ where it hurts: gVisor shuts a socket
 * down when an exec fails to start, so its client dies by SIGPIPE before it says why, and /dev/stdout cannot be opened inside.
 */
export function startPiped (path: string, { pipeBytes, ...options }: PipedOptions): PipedProgram {
  const [stdin, stdout, stderr] = [makePipe(), makePipe(), makePipe()]
  if (pipeBytes !== undefined) for (const pipe of [stdin, stdout]) growPipe(pipe.writeFd, pipeBytes)
  const theirs = [stdin.readFd, stdout.writeFd, stderr.writeFd]
  try {
    const program = startProgram(path, { ...options, stdio: theirs })
    return {
      ...program,
      stdin: new Socket({ fd: stdin.writeFd, readable: false, writable: true }),
      stdout: new Socket({ fd: stdout.readFd, readable: true, writable: false }),
      stderr: new Socket({ fd: stderr.readFd, readable: true, writable: false }),
    }
  } catch (error) {
    for (const fd of [stdin.writeFd, stdout.readFd, stderr.readFd]) closeSync(fd)
    throw error
  } finally {
    // The child has its own copies: an end kept here would never let a reader see the end.
    for (const fd of theirs) closeSync(fd)
  }
}

function reap (): void {
  for (const [pid, resolve] of unreaped) {
    const end = reapProcess(pid)
    if (!end) continue
    unreaped.delete(pid)
    resolve(end)
  }
  stopReapingWhenIdle()
}

function stopReapingWhenIdle (): void {
  if (unreaped.size > 0) return
  process.off('SIGCHLD', reap)
  clearInterval(safetyNet)
}
