/**
 * Starts a program whose standard streams are pipes. Node gives children socket pairs, and those differ where it hurts:
 * gVisor shuts a socket down when an exec fails to start, so its client dies by SIGPIPE before it says why, and
 * /dev/stdout and /dev/stderr cannot be opened inside.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync } from 'node:fs'
import { Socket } from 'node:net'
import { makePipe } from './libc.ts'

/** A child as spawn answers it, with stdin, stdout and stderr over pipes. */
export function spawnWithPipes (path: string, args: readonly string[], options: { env: Readonly<Record<string, string>>, cwd: string }): ChildProcess {
  const [stdin, stdout, stderr] = [makePipe(), makePipe(), makePipe()]
  const theirs = [stdin.readFd, stdout.writeFd, stderr.writeFd]
  try {
    const child = spawn(path, args, { ...options, stdio: theirs })
    child.stdin = new Socket({ fd: stdin.writeFd, readable: false, writable: true })
    child.stdout = new Socket({ fd: stdout.readFd, readable: true, writable: false })
    child.stderr = new Socket({ fd: stderr.readFd, readable: true, writable: false })
    return child
  } catch (error) {
    for (const fd of [stdin.writeFd, stdout.readFd, stderr.readFd]) closeSync(fd)
    throw error
  } finally {
    // The child has its own copies: an end kept here would never let a reader see the end.
    for (const fd of theirs) closeSync(fd)
  }
}
