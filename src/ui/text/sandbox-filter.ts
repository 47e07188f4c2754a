/** Which sandboxes and tasks a filter lets through. */

export interface Filterable {
  id: string
  status: string
  image: string | { reference: string }
  entrypoint?: string[]
  labels: Record<string, string>
}

/** Groups of statuses that are asked for together; `all` is every one. */
export const statusGroups: Readonly<Record<string, readonly string[]>> = Object.freeze({
  active: ['pending', 'creating', 'created', 'running', 'paused', 'stopping', 'scheduled'],
  ended: ['stopped', 'failed', 'complete', 'cancelled'],
})

/** Every word of the text must occur in id, image, command or a label (`name=value`), whatever the case; the status must be the one, or of the group. */
export function matchesFilter (item: Filterable, text: string, status: string): boolean {
  if (status !== 'all' && item.status !== status && statusGroups[status]?.includes(item.status) !== true) return false
  const words = text.toLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) return true
  const image = typeof item.image === 'string' ? item.image : item.image.reference
  const labels = Object.entries(item.labels).map(([name, value]) => `${name}=${value}`)
  const haystack = [item.id, image, item.status, ...(item.entrypoint ?? []), ...labels].join('\n').toLowerCase()
  return words.every(word => haystack.includes(word))
}
