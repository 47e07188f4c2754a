import { BerthError } from '../errors.ts'
import type { Terminal, TerminalPage, TerminalStatus } from '../schemas/terminal.ts'
import type { BerthClient } from './client.ts'
import type { Shell } from './shell.ts'
import { formatTerminals } from './terminal-text.ts'

const pageSize = 200

/** The terminals of a sandbox, the newest first. */
export async function listTerminals (client: BerthClient, sandboxId: string, query: { status?: TerminalStatus[] } = {}): Promise<Terminal[]> {
  const found: Terminal[] = []
  let cursor: string | undefined
  do {
    const page = await client.request<TerminalPage>('GET', `/v1/sandboxes/${sandboxId}/terminals`, { query: { ...query, limit: pageSize, cursor } })
    found.push(...page.items)
    cursor = page.nextCursor
  } while (cursor !== undefined)
  return found
}

/**
 * The id of the terminal that an id, a name or the unique beginning of an id stands for.
 *
 * @throws BerthError not_found `terminal_not_found`; conflict `ambiguous_id`.
 */
export async function resolveTerminalId (client: BerthClient, sandboxId: string, text: string): Promise<string> {
  if (/^trm_[a-z0-9]{20}$/.test(text)) return text
  const terminals = await listTerminals(client, sandboxId)
  const named = terminals.filter(({ name }) => name === text)
  const prefix = text.startsWith('trm_') ? text : `trm_${text}`
  const found = named.length > 0 ? named : text === '' || text === 'trm_' ? [] : terminals.filter(({ id }) => id.startsWith(prefix))
  const [only] = found
  if (!only) throw new BerthError('not_found', 'terminal_not_found', `no terminal of ${sandboxId} is '${text}'; see them with: berth terminal ls ${sandboxId}`)
  if (found.length > 1) throw new BerthError('conflict', 'ambiguous_id', `'${text}' stands for ${found.slice(0, 5).map(({ id }) => id).join(', ')}; give the id of one`)
  return only.id
}

/**
 * The only terminal that runs; where there are several they are listed on standard error.
 *
 * @throws BerthError not_found `no_terminal_runs`; conflict `several_terminals_run`.
 */
export async function onlyRunningTerminalId ({ client, output }: Shell, sandboxId: string): Promise<string> {
  const running = await listTerminals(client(), sandboxId, { status: ['starting', 'running'] })
  const [only] = running
  if (!only) throw new BerthError('not_found', 'no_terminal_runs', `no terminal runs in ${sandboxId}; open one with: berth exec -it ${sandboxId}`)
  if (running.length === 1) return only.id
  await output.err(formatTerminals(running))
  throw new BerthError('conflict', 'several_terminals_run', `${running.length} terminals run in ${sandboxId}; say which: berth attach ${sandboxId} TERMINAL`)
}
