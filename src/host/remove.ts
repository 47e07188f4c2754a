import { pollUntil } from '../lib/poll.ts'
import { runCommand, type CommandResult } from './command.ts'

const removeDeadlineMs = 300_000
// A process that is ending may write one more file into a directory that has just been emptied.
const latecomersMs = 1000

/**
 * Removes trees whose content is not trusted: no link is followed, no mount is crossed, any depth is taken. Missing ones are fine; where
 * files are added meanwhile it begins again, for a second.
 */
export async function removeTrees (paths: readonly string[]): Promise<void> {
  if (paths.length === 0) return
  let result: CommandResult | undefined
  await pollUntil(async () => {
    result = await runCommand('rm', ['-rf', '--one-file-system', '--', ...paths], { timeoutMs: removeDeadlineMs })
    return result.exitCode === 0 || !result.stderr.includes('Directory not empty')
  }, latecomersMs)
  if (result?.exitCode !== 0) throw new Error(`rm: ${result?.stderr.trim()}`)
}
