import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { FileEntry, FilePage } from '../schemas/file.ts'
import { insidePath } from './copy-place.ts'
import { filesPath, type FilesOf } from './file-calls.ts'
import { addFileContentCommands } from './file-content-commands.ts'
import { addFileCommand, openFiles, type Act, type FileFlags } from './file-options.ts'
import { addFileSearchCommands } from './file-search-commands.ts'
import { describeFile, formatFiles, shownName } from './file-text.ts'
import { definedOnly } from './sandbox-options.ts'
import { forEachId, type Shell } from './shell.ts'

const pageSize = 1000

export function addFileCommands (program: Command, shell: Shell, act: Act): void {
  const files = program.command('files').summary('list, read, write, move, remove and watch files of a sandbox')
    .description('Files of a running sandbox, one at a time. What a path leads to is decided inside. For trees see berth cp.')
  addFileCommand(files, 'ls', 'list a directory').argument('[PATH]', 'directory, or a file', '/')
    .option('-1, --names', 'names only')
    .action((id: string, path: string, flags: FileFlags & { names?: boolean }) => act(list(shell, id, path, flags)))
  addFileCommand(files, 'stat', 'show what is at a path').argument('<PATH>')
    .option('-L, --dereference', 'what a symbolic link leads to')
    .action((id: string, path: string, flags: FileFlags & { dereference?: boolean }) => act(show(shell, id, path, flags)))
  addFileCommand(files, 'mkdir', 'make directories').argument('<PATH...>')
    .option('-p, --parents', 'with what is missing above them; be content where they are there')
    .option('-m, --mode <MODE>', 'permissions, octal')
    .action((id: string, paths: string[], flags: FileFlags & { parents?: boolean, mode?: string }) => act(makeDirectories(shell, id, paths, flags)))
  addFileCommand(files, 'mv', 'move or rename').argument('<FROM>').argument('<TO>', 'its whole path')
    .option('-n, --no-clobber', 'refuse where TO is there')
    .option('-p, --parents', 'make the directory of TO where it is missing')
    .action((id: string, from: string, to: string, flags: FileFlags & { clobber: boolean, parents?: boolean }) => act(move(shell, id, from, to, flags)))
  addFileCommand(files, 'rm', 'remove files and directories').argument('<PATH...>')
    .option('-r, --recursive', 'directories with all that is in them')
    .option('-f, --force', 'be content where it is not there')
    .action((id: string, paths: string[], flags: FileFlags & { recursive?: boolean, force?: boolean }) => act(remove(shell, id, paths, flags)))
  addFileContentCommands(files, shell, act)
  addFileSearchCommands(files, shell, act)
}

async function list (shell: Shell, given: string, path: string, flags: FileFlags & { names?: boolean }): Promise<number> {
  const files = await openFiles(shell, given, flags)
  const entries: FileEntry[] = []
  try {
    for await (const page of pages(files, insidePath(path))) {
      if (flags.json) entries.push(...page)
      else await shell.output.out(flags.names ? page.map(entry => `${shownName(shell, entry)}\n`).join('') : formatFiles(shell, page))
    }
  } catch (error) {
    if (!(error instanceof BerthError) || error.code !== 'not_a_directory') throw error
    const entry = await stat(files, insidePath(path), false)
    if (flags.json) entries.push(entry)
    else await shell.output.out(flags.names ? `${shownName(shell, entry)}\n` : formatFiles(shell, [entry]))
  }
  if (flags.json) await shell.output.json(entries)
  return 0
}

async function * pages ({ shell, sandboxId, user }: FilesOf, path: string): AsyncGenerator<FileEntry[]> {
  let cursor: string | undefined
  do {
    const page = await shell.client().request<FilePage>('GET', `${filesPath(sandboxId)}/list`, { query: { path, user, limit: pageSize, cursor } })
    yield page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

function stat ({ shell, sandboxId, user }: FilesOf, path: string, follow: boolean): Promise<FileEntry> {
  return shell.client().request<FileEntry>('GET', `${filesPath(sandboxId)}/stat`, { query: { path, user, follow: follow ? undefined : false } })
}

async function show (shell: Shell, given: string, path: string, flags: FileFlags & { dereference?: boolean }): Promise<number> {
  const entry = await stat(await openFiles(shell, given, flags), insidePath(path), flags.dereference ?? false)
  await (flags.json ? shell.output.json(entry) : shell.output.out(describeFile(shell, entry)))
  return 0
}

async function makeDirectories (shell: Shell, given: string, paths: string[], flags: FileFlags & { parents?: boolean, mode?: string }): Promise<number> {
  const files = await openFiles(shell, given, flags)
  return await forEachId(shell, paths, async path => {
    const entry = await post<FileEntry>(files, 'mkdir', definedOnly({ path: insidePath(path), parents: flags.parents ?? false, mode: flags.mode }))
    if (flags.json) await shell.output.line(JSON.stringify(entry))
  })
}

async function move (shell: Shell, given: string, from: string, to: string, flags: FileFlags & { clobber: boolean, parents?: boolean }): Promise<number> {
  const files = await openFiles(shell, given, flags)
  const entry = await post<FileEntry>(files, 'move', { from: insidePath(from), to: insidePath(to), overwrite: flags.clobber, parents: flags.parents ?? false })
  if (flags.json) await shell.output.json(entry)
  return 0
}

async function remove (shell: Shell, given: string, paths: string[], flags: FileFlags & { recursive?: boolean, force?: boolean }): Promise<number> {
  const files = await openFiles(shell, given, flags)
  return await forEachId(shell, paths, async path => {
    const { removed } = await post<{ removed: number }>(files, 'remove', { path: insidePath(path), recursive: flags.recursive ?? false, ignoreMissing: flags.force ?? false })
    if (flags.json) await shell.output.line(JSON.stringify({ path: insidePath(path), removed }))
  })
}

function post<T> ({ shell, sandboxId, user }: FilesOf, what: string, body: object): Promise<T> {
  return shell.client().request<T>('POST', `${filesPath(sandboxId)}/${what}`, { query: { user }, body })
}
