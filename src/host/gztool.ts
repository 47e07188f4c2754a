/** gztool: decompresses a gzip stream and writes, beside it, the points at which decompression can be taken up again. */
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { Socket } from 'node:net'
import { dirname } from 'node:path'
import { BerthError } from '../errors.ts'
import { OutputCollector } from '../lib/output-collector.ts'
import { cleanEnv, findProgram, signalNumbers } from './command.ts'
import { growPipe, makePipe } from './libc.ts'
import { startProgram, type ProgramEnd } from './spawn.ts'

export interface IndexGzipOptions {
  /** The whole gzip stream, of any number of members. An error of it is the error of the call. */
  input: AsyncIterable<Buffer>
  /** Created; must not exist. */
  tarPath: string
  /** Created; gztool's own format, version 0, points on byte boundaries. */
  indexPath: string
  /** How far the points are apart, in MiB of uncompressed data. */
  spanMiB: number
  /** What the stream may grow to. The kernel holds to it: RLIMIT_FSIZE. */
  maxTarBytes: number
  signal?: AbortSignal
}

/** Disk space that is left to everybody else. */
export const reservedDiskBytes = 256 * 1024 ** 2

/**
 * Decompresses a gzip stream into a file and makes its index in the same pass. The caller removes what a failure leaves behind.
 *
 * @throws BerthError invalid_argument `image_invalid` when it is no gzip stream, damaged, cut off, followed by anything else, or too large;
 * exhausted `disk_full`; unavailable `program_not_found`.
 */
export async function indexGzip (options: IndexGzipOptions): Promise<void> {
  const { input, tarPath, indexPath, spanMiB, maxTarBytes, signal } = options
  signal?.throwIfAborted()
  const [gztool, prlimit, setpriv] = [mustFind('gztool'), mustFind('prlimit'), mustFind('setpriv')]
  const freeBytes = Math.max(await freeDiskBytes(dirname(tarPath)) - reservedDiskBytes, 0)
  const limitBytes = Math.min(maxTarBytes, freeBytes)
  // It dies with this process: no one writes to a directory that the next one clears.
  const argv = ['setpriv', '--pdeathsig', 'KILL', '--no-new-privs', prlimit, `--fsize=${limitBytes}`, '--core=0',
    gztool, '-v', '0', '-z', '-Z', '-s', String(spanMiB), '-I', indexPath, '-b', '0']
  const child = startFilter(setpriv, argv, tarPath)
  const onAbort = () => child.kill('SIGKILL')
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    await feed(child.stdin, input, child.ended)
    const end = await child.ended
    signal?.throwIfAborted()
    if (end.exitCode === 0) return
    throw await gztoolError(end, { isOverLimit: maxTarBytes <= freeBytes, maxTarBytes, dir: dirname(tarPath), stderr: child.stderr() })
  } finally {
    signal?.removeEventListener('abort', onAbort)
    child.kill('SIGKILL')
    child.stdin.destroy()
    await child.ended
  }
}

/** Free space that an unprivileged program could still use on the file system of a directory. */
export async function freeDiskBytes (dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir)
  return bavail * bsize
}

function mustFind (name: string): string {
  const path = findProgram(name)
  if (!path) throw new BerthError('unavailable', 'program_not_found', `the program ${name} is not installed on this host; run: berth doctor`)
  return path
}

/** Starts a program that reads a pipe of ours and writes a file by itself: its output does not pass through this process. */
function startFilter (path: string, argv: readonly string[], outputPath: string) {
  const output = openSync(outputPath, 'wx', 0o600)
  const [input, messages] = [makePipe(), makePipe()]
  growPipe(input.writeFd, pipeBytes)
  try {
    const program = startProgram(path, { argv, env: cleanEnv, cwd: '/', stdio: [input.readFd, output, messages.writeFd], isSessionLeader: false })
    const stdin = new Socket({ fd: input.writeFd, readable: false, writable: true })
    // It may end without reading its input.
    stdin.on('error', () => {})
    const collector = new OutputCollector(maxMessageBytes)
    const stderr = new Socket({ fd: messages.readFd, readable: true, writable: false })
    stderr.on('error', () => {})
    stderr.on('data', (chunk: Buffer) => collector.add(chunk))
    return { ...program, stdin, stderr: () => collector.text('utf8') }
  } catch (error) {
    closeSync(input.writeFd)
    closeSync(messages.readFd)
    throw error
  } finally {
    for (const fd of [output, input.readFd, messages.writeFd]) closeSync(fd)
  }
}

const maxMessageBytes = 4096
// What an unprivileged user may have: a writer that is woken less often.
const pipeBytes = 1024 ** 2

/** Writes a stream to a program, no faster than it takes it, until either of them ends. */
async function feed (stdin: Socket, input: AsyncIterable<Buffer>, ended: Promise<ProgramEnd>): Promise<void> {
  let hasEnded = false
  const end = ended.then(() => { hasEnded = true })
  for await (const chunk of input) {
    if (hasEnded) return
    // Waiting ends with the program: one that is gone drains nothing.
    if (!stdin.write(chunk)) await Promise.race([once(stdin, 'drain').catch(() => {}), end])
  }
  stdin.end()
}

interface EndCircumstances {
  isOverLimit: boolean
  maxTarBytes: number
  dir: string
  stderr: string
}

/** What a failed run of gztool means. */
async function gztoolError (end: ProgramEnd, { isOverLimit, maxTarBytes, dir, stderr }: EndCircumstances): Promise<BerthError> {
  const cause = new Error(`gztool ended with ${JSON.stringify(end)}: ${stderr.slice(-1000)}`)
  const hasHitLimit = end.signalNumber === signalNumbers['SIGXFSZ']
  if (hasHitLimit && isOverLimit) {
    return new BerthError('invalid_argument', 'image_invalid', `a layer of the image is larger than ${maxTarBytes} bytes when it is decompressed; use a smaller image or raise the limit`, { cause })
  }
  if (hasHitLimit || await freeDiskBytes(dir) < reservedDiskBytes / 2) return diskFullError(cause)
  if (end.signalNumber !== undefined) return new BerthError('unavailable', 'image_unpack_interrupted', 'the decompression of a layer was interrupted on the host; try again', { cause })
  // As a shell and setpriv say it: gztool never ran.
  if (end.exitCode === 126 || end.exitCode === 127) return new BerthError('unavailable', 'program_not_found', 'the program gztool of this host cannot be run; run: berth doctor', { cause })
  return new BerthError('invalid_argument', 'image_invalid', 'a layer of the image is not a whole gzip stream: it is damaged, cut off, or followed by something else; push the image again', { cause })
}

export function diskFullError (cause?: unknown): BerthError {
  return new BerthError('exhausted', 'disk_full', 'the host has no disk space left for the layers of the image; free some or use a smaller image', { cause })
}
