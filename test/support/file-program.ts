/** The program that works on files inside a sandbox, run on this host in a directory of its own. */
import type { TestContext } from 'node:test'
import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { buildProgram } from '../../scripts/build-native.ts'
import type { FileHeader } from '../../src/services/files/file-protocol.ts'

export interface Answer {
  status: number | null
  /** The first line. */
  header: FileHeader
  /** All lines, where all of the output is lines. */
  lines: () => Record<string, unknown>[]
  /** What follows the first line. */
  body: Buffer
  stderr: string
}

export interface RunOptions {
  input?: Buffer
  /** Only root can. */
  uid?: number
}

/** As u32be length and bytes, with the end that says that this was all, unless it is cut. */
export function frame (bytes: Buffer | string, { isCut = false, pieceBytes = 65536 } = {}): Buffer {
  const all = Buffer.from(bytes)
  const parts: Buffer[] = []
  for (let at = 0; at < all.length; at += pieceBytes) {
    const piece = all.subarray(at, at + pieceBytes)
    const length = Buffer.alloc(4)
    length.writeUInt32BE(piece.length)
    parts.push(length, piece)
  }
  return Buffer.concat(isCut ? parts : [...parts, Buffer.alloc(4)])
}

/** A directory, and the program to work in it. Set FILES_SANITIZED to run the build that ends at the first fault of memory. */
export function fileProgram (t: TestContext) {
  const { path: built } = buildProgram('files', { quiet: true, isSanitized: process.env['FILES_SANITIZED'] !== undefined })
  const base = mkdtempSync(join(tmpdir(), 'files-'))
  t.after(() => rmSync(base, { recursive: true, force: true }))
  chmodSync(base, 0o755)
  // Where it was compiled, another user may have no way to.
  const program = join(base, 'files')
  copyFileSync(built, program)
  const dir = join(base, 'dir')
  mkdirSync(dir)
  const identity = (uid: number | undefined) => uid === undefined ? {} : { uid, gid: uid }

  return {
    dir,
    program,
    at: (...names: string[]) => join(dir, ...names),
    run (args: string[], paths: string[], { input = Buffer.alloc(0), uid }: RunOptions = {}): Answer {
      const { status, stdout, stderr, error } = spawnSync(program, [...args, '--', ...paths], {
        input, ...identity(uid), maxBuffer: 256 * 1024 ** 2, timeout: 60_000, env: { PATH: '/usr/bin:/bin' },
      })
      if (error && (error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
      const end = stdout.indexOf('\n')
      return {
        status,
        header: JSON.parse(stdout.subarray(0, end === -1 ? undefined : end).toString() || '{}') as FileHeader,
        lines: () => stdout.toString().split('\n').filter(line => line !== '').map(line => JSON.parse(line) as Record<string, unknown>),
        body: stdout.subarray(end + 1),
        stderr: stderr.toString(),
      }
    },
    start (args: string[], paths: string[]): ChildProcessByStdio<Writable, Readable, Readable> {
      const child = spawn(program, [...args, '--', ...paths], { stdio: ['pipe', 'pipe', 'pipe'], env: {} })
      t.after(() => child.kill('SIGKILL'))
      child.stdin.on('error', () => {})
      return child
    },
  }
}

/** Lines of a program, as they come. */
export async function * linesOf (source: Readable): AsyncGenerator<Record<string, unknown>> {
  let rest = ''
  for await (const chunk of source) {
    const parts = (rest + String(chunk)).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) yield JSON.parse(part) as Record<string, unknown>
  }
}
