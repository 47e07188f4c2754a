import { once } from 'node:events'
import { createReadStream, createWriteStream } from 'node:fs'
import { rename, rm, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import { insidePath } from './copy-place.ts'
import { filesPath, sendFile, type FilesOf } from './file-calls.ts'
import { addFileCommand, openFiles, type Act, type FileFlags } from './file-options.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { printable, quoteName } from './printable.ts'
import { Progress } from './progress.ts'
import type { Shell } from './shell.ts'
import { describeSize } from './units.ts'

interface PutFlags extends FileFlags {
  mode?: string
  owner?: string
  parents?: boolean
  clobber: boolean
}

type Passing = (chunk: Buffer) => Promise<void>

export function addFileContentCommands (files: Command, shell: Shell, act: Act): void {
  addFileCommand(files, 'cat', 'print a file').argument('<PATH>')
    .action((id: string, path: string, flags: FileFlags) => act(interruptible(shell, signal => cat(shell, id, path, { ...flags, signal }))))
  addFileCommand(files, 'get', 'take one file out of a sandbox').argument('<PATH>').argument('[FILE]', 'here, or a directory; - is standard output', '.')
    .action((id: string, path: string, to: string, flags: FileFlags) => act(interruptible(shell, signal => get(shell, id, path, to, { ...flags, signal }))))
  addFileCommand(files, 'put', 'put one file into a sandbox').argument('<FILE>', 'here; - is standard input').argument('<PATH>', 'its whole path inside')
    .option('-m, --mode <MODE>', 'permissions, octal; those of the file before, else 0644')
    .option('--owner <USER>', 'user or user:group that it belongs to')
    .option('-p, --parents', 'make the directories above it where they are missing')
    .option('-n, --no-clobber', 'refuse where there is something')
    .action((id: string, from: string, path: string, flags: PutFlags) => act(interruptible(shell, signal => put(shell, id, { from, path }, { ...flags, signal }))))
}

async function interruptible (shell: Shell, work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  return await work(left.signal)
}

async function cat (shell: Shell, given: string, path: string, { signal, ...flags }: FileFlags & { signal: AbortSignal }): Promise<number> {
  await read(await openFiles(shell, given, flags, signal), insidePath(path), chunk => shell.output.out(chunk))
  return 0
}

async function get (shell: Shell, given: string, path: string, to: string, { signal, ...flags }: FileFlags & { signal: AbortSignal }): Promise<number> {
  if (to === '-') return await cat(shell, given, path, { signal, ...flags })
  const files = await openFiles(shell, given, flags, signal)
  const inside = insidePath(path)
  const target = (await stat(to).catch(() => undefined))?.isDirectory() ? join(to, basename(inside)) : to
  const bytes = await new Progress(shell.output, 'auto').during(`reading ${printable(inside)}`, () => receive(files, inside, target))
  if (flags.json) await shell.output.json({ path: inside, to: target, bytes })
  return 0
}

/** Beside where it goes, and there when all of it has come. */
async function receive (files: FilesOf, path: string, target: string): Promise<number> {
  const part = `${target}.berth-part-${process.pid}`
  const file = createWriteStream(part, { flags: 'wx', mode: 0o644 })
  let bytes = 0
  try {
    await once(file, 'open')
    await read(files, path, async chunk => {
      bytes += chunk.length
      if (!file.write(chunk)) await once(file, 'drain')
    })
    file.end()
    await once(file, 'close')
    await rename(part, target)
    return bytes
  } catch (error) {
    file.destroy()
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') await rm(part, { force: true })
    throw error
  }
}

async function read ({ shell, sandboxId, user, signal }: FilesOf, path: string, pass: Passing): Promise<void> {
  const answer = await shell.client().download('GET', filesPath(sandboxId), { query: { path, user }, signal })
  try {
    for await (const chunk of answer) await pass(chunk as Buffer)
  } catch (error) {
    throw answer.errored === error ? shell.client().asAnswerError(error, signal) : error
  } finally {
    answer.destroy()
  }
}

async function put (shell: Shell, given: string, { from, path }: { from: string, path: string }, { signal, ...flags }: PutFlags & { signal: AbortSignal }): Promise<number> {
  const isStdin = from === '-'
  const facts = isStdin ? undefined : await stat(from)
  if (facts && !facts.isFile()) throw new BerthError('invalid_argument', 'not_a_file', `${quoteName(from)} is not a file; directories are copied by: berth cp`)
  const files = await openFiles(shell, given, flags, signal)
  const source = isStdin ? shell.context.stdin : createReadStream(from)
  const query = { mode: flags.mode, owner: flags.owner, parents: flags.parents ?? false, overwrite: flags.clobber }
  const entry = await new Progress(shell.output, 'auto').during(`writing ${facts ? `${describeSize(facts.size)} to ` : ''}${printable(path)}`,
    () => sendFile(files, { path: insidePath(path), source, sizeBytes: facts?.size, query }))
  if (flags.json) await shell.output.json(entry)
  return 0
}
