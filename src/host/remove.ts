import { runCommand } from './command.ts'

const removeDeadlineMs = 300_000

/** Removes trees whose content is not trusted: no link is followed, no mount is crossed, any depth is taken. Missing ones are fine. */
export async function removeTrees (paths: readonly string[]): Promise<void> {
  if (paths.length === 0) return
  const result = await runCommand('rm', ['-rf', '--one-file-system', '--', ...paths], { timeoutMs: removeDeadlineMs })
  if (result.exitCode !== 0) throw new Error(`rm: ${result.stderr.trim()}`)
}
