/** What sandboxes use, and the load that follows from two looks at it. */
import type { Usage } from '../../schemas/usage.ts'

export interface CurrentUsage {
  memoryBytes: number
  pids: number
  /** In thousandths of a core; absent until there were two looks. */
  cpuMillis?: number
}

export interface UsageHistory {
  last: ReadonlyMap<string, Usage>
  current: ReadonlyMap<string, CurrentUsage>
}

export const noUsage: UsageHistory = Object.freeze({ last: new Map(), current: new Map() })

/** The history with one more look, which is of all that run. */
export function addUsage (history: UsageHistory, items: readonly Usage[]): UsageHistory {
  const current = items.map((usage): [string, CurrentUsage] => {
    const before = history.last.get(usage.sandboxId)
    const elapsedMs = before === undefined ? 0 : Date.parse(usage.at) - Date.parse(before.at)
    const known = history.current.get(usage.sandboxId)?.cpuMillis
    const spentMs = before === undefined ? -1 : usage.cpuTimeMs - before.cpuTimeMs
    // A look at the same moment says nothing; less time than before means that it was started anew.
    const load = elapsedMs > 0 && spentMs >= 0 ? spentMs / elapsedMs * 1000 : undefined
    const cpuMillis = elapsedMs === 0 ? known : load
    return [usage.sandboxId, { memoryBytes: usage.memoryBytes, pids: usage.pids, ...(cpuMillis === undefined ? {} : { cpuMillis }) }]
  })
  return { last: new Map(items.map(usage => [usage.sandboxId, usage])), current: new Map(current) }
}
