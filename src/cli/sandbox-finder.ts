import { BerthError } from '../errors.ts'
import type { Sandbox, SandboxPage } from '../schemas/sandbox.ts'
import type { BerthClient, Query } from './client.ts'

const wholeId = /^sbx_[a-z0-9]{20}$/
const prefix = /^(sbx_)?[a-z0-9]*$/
const pageSize = 200
const shownCandidates = 5

/** All sandboxes that match, newest page order as the daemon gives it, one page in memory at a time. */
export async function * listSandboxes (client: BerthClient, query: Query = {}): AsyncGenerator<Sandbox> {
  let cursor: string | undefined
  do {
    const page = await client.request<SandboxPage>('GET', '/v1/sandboxes', { query: { ...query, limit: pageSize, cursor } })
    yield * page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

/** The whole id that a unique prefix, with or without `sbx_`, stands for. */
export async function resolveSandboxId (client: BerthClient, text: string): Promise<string> {
  if (wholeId.test(text)) return text
  if (text === '' || text === 'sbx_' || !prefix.test(text)) {
    throw new BerthError('invalid_argument', 'usage', `'${text}' is not a sandbox id; see them with: berth ps -a`)
  }
  const wanted = text.startsWith('sbx_') ? text : `sbx_${text}`
  const found: string[] = []
  for await (const { id } of listSandboxes(client)) if (id.startsWith(wanted)) found.push(id)
  if (found.length === 0) throw new BerthError('not_found', 'sandbox_not_found', `no sandbox has the id '${text}'; see them with: berth ps -a`)
  if (found.length > 1) {
    const more = found.length > shownCandidates ? ` and ${found.length - shownCandidates} more` : ''
    throw new BerthError('conflict', 'ambiguous_id', `'${text}' stands for ${found.slice(0, shownCandidates).join(', ')}${more}; give more of the id`)
  }
  return found[0]!
}
