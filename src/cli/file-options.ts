import type { Command } from 'commander'
import type { FilesOf } from './file-calls.ts'
import { definedOnly } from './sandbox-options.ts'
import type { Shell } from './shell.ts'
import { resolveSandboxId } from './target-finder.ts'

/** Of every command of files. */
export interface FileFlags {
  user?: string
  json?: boolean
}

/** How the command line reaches its actions. */
export type Act = (work: Promise<number>) => Promise<void>

/** One command of files, with what all of them take. */
export function addFileCommand (files: Command, name: string, summary: string): Command {
  const description = `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`
  const command = files.command(name).summary(summary).description(description).argument('<ID>', 'id of a sandbox, or the unique beginning of one')
    .option('-u, --user <USER>', 'as whom inside, as name, uid or uid:gid')
  return name === 'cat' ? command : command.option('--json', 'print JSON')
}

/** The sandbox that the id stands for, and as whom. */
export async function openFiles (shell: Shell, given: string, { user }: FileFlags, signal?: AbortSignal): Promise<FilesOf> {
  return definedOnly({ shell, sandboxId: await resolveSandboxId(shell.client(), given), user, signal })
}
