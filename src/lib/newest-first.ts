import { BerthError } from '../errors.ts'

const defaultPageSize = 100

/**
 * A page of things, newest first. The cursor is the id of the last one of the page before.
 *
 * @throws BerthError invalid_argument `invalid_cursor` where nothing has that id.
 */
export function newestFirst<T extends { id: string, createdAt: string }> (
  all: readonly T[],
  { limit = defaultPageSize, cursor }: { limit?: number | undefined, cursor?: string | undefined }
): { items: T[], nextCursor?: string } {
  const sorted = [...all].sort((a, b) => a.createdAt < b.createdAt || (a.createdAt === b.createdAt && a.id < b.id) ? 1 : -1)
  const begin = cursor === undefined ? 0 : sorted.findIndex(({ id }) => id === cursor) + 1
  if (cursor !== undefined && begin === 0) throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that this list answered; leave it out to begin anew')
  const items = sorted.slice(begin, begin + limit)
  const last = items.at(-1)
  return { items, ...(last && begin + limit < sorted.length ? { nextCursor: last.id } : {}) }
}
