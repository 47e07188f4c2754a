import type { Command } from 'commander'
import type { FileChange, FileMatch, FileMatches } from '../schemas/file.ts'
import { throwIfError } from './client.ts'
import { insidePath } from './copy-place.ts'
import { filesPath } from './file-calls.ts'
import { addFileCommand, openFiles, type Act, type FileFlags } from './file-options.ts'
import { shownText } from './file-text.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import type { Shell } from './shell.ts'
import { parseCount, parseDuration } from './units.ts'

interface FindFlags extends FileFlags {
  name?: string
  text?: string
  regex?: boolean
  ignoreCase?: boolean
  limit?: string
  timeout?: string
}

// The most that one answer has.
const maxMatches = 1000

export function addFileSearchCommands (files: Command, shell: Shell, act: Act): void {
  addFileCommand(files, 'find', 'find files by name, by text, or both').argument('[PATH]', 'where to begin', '/')
    .option('--name <GLOB>', 'whose name matches, like *.ts')
    .option('--text <TEXT>', 'a line of which contains it; prints the lines')
    .option('-E, --regex', 'TEXT is an extended regular expression')
    .option('-i, --ignore-case', 'upper case is lower case')
    .option('--limit <N>', `at most so many (${maxMatches})`)
    .option('--timeout <DURATION>', 'print what was found until then (10s)')
    .action((id: string, path: string, flags: FindFlags) => act(find(shell, id, path, flags)))
  addFileCommand(files, 'watch', 'show what changes at a path, until Ctrl-C').argument('[PATH]', 'directory or file', '/')
    .option('-r, --recursive', 'all that is below it too')
    .action((id: string, path: string, flags: FileFlags & { recursive?: boolean }) => act(watch(shell, id, path, flags)))
}

async function find (shell: Shell, given: string, path: string, flags: FindFlags): Promise<number> {
  const { sandboxId, user } = await openFiles(shell, given, flags)
  const query = {
    path: insidePath(path),
    user,
    name: flags.name,
    text: flags.text,
    regex: flags.regex,
    ignoreCase: flags.ignoreCase,
    limit: flags.limit === undefined ? maxMatches : parseCount(flags.limit, '--limit'),
    timeoutMs: flags.timeout === undefined ? undefined : parseDuration(flags.timeout, '--timeout'),
  }
  const found = await shell.client().request<FileMatches>('GET', `${filesPath(sandboxId)}/search`, { query })
  if (flags.json) await shell.output.json(found)
  else await shell.output.out(found.items.map(match => formatMatch(shell, match)).join(''))
  if (found.isTruncated) await shell.output.note('there may be more: the limit or the time was over')
  if (found.skipped > 0) await shell.output.note(`could not be read and was left out: ${found.skipped}`)
  return 0
}

function formatMatch (shell: Shell, { path, encoding, line, text }: FileMatch): string {
  const place = shownText(shell, path, encoding)
  return line === undefined ? `${place}\n` : `${place}:${line}:${shownText(shell, text ?? '')}\n`
}

async function watch (shell: Shell, given: string, path: string, flags: FileFlags & { recursive?: boolean }): Promise<number> {
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const { sandboxId, user } = await openFiles(shell, given, flags)
  const query = { path: insidePath(path), user, recursive: flags.recursive, format: 'ndjson' }
  for await (const change of shell.client().stream<FileChange>('GET', `${filesPath(sandboxId)}/watch`, { query, signal: left.signal })) {
    throwIfError(change)
    if (flags.json) await shell.output.line(JSON.stringify(change))
    else if (change.type === 'overflow') await shell.output.note('changes were lost: list the directory again')
    else if (change.type !== 'ready') await shell.output.line(formatChange(shell, change))
  }
  return 0
}

function formatChange (shell: Shell, { type, path, from, encoding }: FileChange): string {
  const place = shownText(shell, path, encoding)
  return `${type.padEnd(10)}  ${from === undefined ? place : `${shownText(shell, from, encoding)} -> ${place}`}`
}
