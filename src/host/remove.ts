import { setTimeout as delay } from 'node:timers/promises'
import { runCommand } from './command.ts'

const removeDeadlineMs = 300_000
// A process that is ending may write one more file into a directory that has just been emptied. The pauses double, and are a second together.
const longestPauseMs = 512

/**
 * Removes trees whose content is not trusted: no link is followed, no mount is crossed, any depth is taken. Missing ones are fine; where
 * files are added meanwhile it begins again, with pauses of a second in all.
 */
export async function removeTrees (paths: readonly string[]): Promise<void> {
  if (paths.length === 0) return
  for (let pauseMs = 1; ; pauseMs *= 2) {
    const { exitCode, stderr } = await runCommand('rm', ['-rf', '--one-file-system', '--', ...paths], { timeoutMs: removeDeadlineMs })
    if (exitCode === 0) return
    if (pauseMs > longestPauseMs || !stderr.includes('Directory not empty')) throw new Error(`rm: ${stderr.trim()}`)
    await delay(pauseMs)
  }
}
