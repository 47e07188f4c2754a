import type { BerthClient } from './client.ts'
import type { CliContext } from './cli-context.ts'
import type { Output } from './command-output.ts'

/** What every command works with. */
export interface Shell {
  context: CliContext
  output: Output
  /** Made at first use: `berth serve` and `--help` need none. */
  client: () => BerthClient
}

/** Does something to each id in turn; one that fails is reported and the others still have their turn. */
export async function forEachId (shell: Shell, ids: string[], work: (id: string) => Promise<void>): Promise<number> {
  const failures: unknown[] = []
  for (const id of ids) {
    try {
      await work(id)
    } catch (error) {
      if (ids.length === 1 || isFatal(error)) throw error
      failures.push(error)
      await shell.output.note((error as Error).message)
    }
  }
  return failures.length === 0 ? 0 : 125
}

/** Whether the other ids would fail for the same reason. */
function isFatal (error: unknown): boolean {
  const name = (error as Error).name
  if (name === 'BerthError') return (error as { kind?: string }).kind === 'unauthenticated'
  return true
}
