import type { Stats } from 'node:fs'
import { lstat } from 'node:fs/promises'
import { join } from 'node:path'

const defaultMode = 0o755

/**
 * A directory that a layer holds but says nothing about, and that a layer below says something else of: another owner or mode, a link. Who
 * unpacks the image leaves such a directory as it is, while a mounted layer would hide it. Answers the first one, or undefined.
 *
 * `below` are the mount points of the lower layers, the top one first. No link in them is followed: every component is looked at by itself.
 */
export async function findOverriddenDirectory (implicitDirectories: readonly string[], below: readonly string[]): Promise<string | undefined> {
  const implicit = new Set(implicitDirectories)
  for (const path of implicitDirectories) {
    const found = await lookUp(path.split('/'), below, implicit)
    if (found && (!found.isDirectory() || (found.mode & 0o7777) !== defaultMode || found.uid !== 0 || found.gid !== 0)) return path
  }
  return undefined
}

/** What the lower layers have by this name, as overlayfs merges them; undefined for nothing. */
async function lookUp (components: readonly string[], below: readonly string[], implicit: ReadonlySet<string>): Promise<Stats | undefined> {
  let path = ''
  let dirs = below
  let found: Stats | undefined
  for (const component of components) {
    path = path === '' ? component : `${path}/${component}`
    found = undefined
    const next: string[] = []
    for (const dir of dirs) {
      const stats = await lstat(join(dir, path)).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined
        throw error
      })
      if (!stats) continue
      // A whiteout, as mkfs.erofs makes it: nothing below counts.
      if (stats.isCharacterDevice()) break
      found ??= stats
      if (!stats.isDirectory()) break
      next.push(dir)
    }
    dirs = next
    // A directory that the layer does describe hides what is no directory below it.
    if (found && !found.isDirectory()) return implicit.has(path) ? found : undefined
  }
  return found
}
