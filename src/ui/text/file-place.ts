/** Paths inside a sandbox, as the API takes them: text, or base64 where they are no UTF-8. */
import type { FileEntry } from '../../schemas/file.ts'

export interface FilePlace {
  path: string
  isBase64: boolean
}

/** What a request for it says. */
export function placeQuery ({ path, isBase64 }: FilePlace): { path: string, pathEncoding?: 'base64' } {
  return isBase64 ? { path, pathEncoding: 'base64' } : { path }
}

export const entryPlace = ({ path, encoding }: Pick<FileEntry, 'path' | 'encoding'>): FilePlace => ({ path, isBase64: encoding !== undefined })

/** For people; bytes that are no text become U+FFFD. */
export function shownName ({ name, encoding }: Pick<FileEntry, 'name' | 'encoding'>): string {
  return encoding === undefined ? name : decode(name)
}

export const shownPath = ({ path, isBase64 }: FilePlace): string => isBase64 ? decode(path) : path

function decode (text: string): string {
  return new TextDecoder().decode(Uint8Array.from(atob(text), char => char.charCodeAt(0)))
}

/** A name below a directory. */
export function joinPath (directory: string, name: string): string {
  return `${directory === '/' ? '' : directory.replace(/\/+$/, '')}/${name}`
}

/** Every directory on the way there, `/` first. Empty for a path that is no text: its parts cannot be named. */
export function pathSteps (place: FilePlace): { name: string, path: string }[] {
  if (place.isBase64) return []
  const parts = place.path.split('/').filter(Boolean)
  return [{ name: '/', path: '/' }, ...parts.map((name, index) => ({ name, path: `/${parts.slice(0, index + 1).join('/')}` }))]
}

/** Directories first, then by name. */
export function sortEntries (entries: readonly FileEntry[]): FileEntry[] {
  const rank = ({ type }: FileEntry) => type === 'directory' ? 0 : 1
  return [...entries].sort((a, b) => rank(a) - rank(b) || (shownName(a) < shownName(b) ? -1 : 1))
}
