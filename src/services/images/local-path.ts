import { realpath, stat } from 'node:fs/promises'
import { normalize } from 'node:path'
import { BerthError } from '../../errors.ts'

export interface PathRules {
  /** Host directories below which a client may name paths. */
  roots: readonly string[]
  /** Berth's own directories: neither they nor anything that holds them may be named. */
  privateDirs: readonly string[]
}

/**
 * The real path of a directory that a client named, once it is known to be one that clients may use.
 *
 * @throws BerthError permission_denied `image_path_not_allowed`, invalid_argument `image_not_found`; messages show
 * only the path as given, and nothing is said about what exists where clients may not look.
 */
export async function resolveClientDirectory (path: string, rules: PathRules): Promise<string> {
  return resolveClientPath(path, rules, 'directory')
}

/** The same for a regular file. */
export async function resolveClientFile (path: string, rules: PathRules): Promise<string> {
  return resolveClientPath(path, rules, 'file')
}

async function resolveClientPath (path: string, rules: PathRules, type: 'directory' | 'file'): Promise<string> {
  const roots = [...rules.roots, ...await Promise.all(rules.roots.map(realpathOrSame))]
  if (!isBelowAny(normalize(path), roots)) throw notAllowed(path)
  let real: string
  try {
    real = await realpath(path)
  } catch (error) {
    throw missing(path, `there is no such ${type}`, error)
  }
  if (!isBelowAny(real, roots)) throw notAllowed(path)
  const stats = await stat(real)
  if (type === 'directory' && !stats.isDirectory()) throw missing(path, 'it is not a directory')
  if (type === 'file' && !stats.isFile()) throw missing(path, 'it is not a regular file')
  const own = await Promise.all(rules.privateDirs.map(realpathOrSame))
  if (own.some(dir => isBelow(real, dir) || isBelow(dir, real))) throw notAllowed(path)
  return real
}

/** Whether a path can stand in overlay's mount options, where `:` `,` and `\` have a meaning. */
export function isOverlayPath (path: string): boolean {
  return !/[:,\\]/.test(path)
}

async function realpathOrSame (path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch {
    return normalize(path)
  }
}

function isBelowAny (path: string, dirs: readonly string[]): boolean {
  return dirs.some(dir => isBelow(path, dir))
}

function isBelow (path: string, dir: string): boolean {
  const withSlash = (text: string) => text.endsWith('/') ? text : `${text}/`
  return withSlash(path).startsWith(withSlash(dir))
}

function notAllowed (path: string): BerthError {
  return new BerthError('permission_denied', 'image_path_not_allowed', `images may not be taken from ${path}; use a directory below one that this host allows for images`)
}

function missing (path: string, why: string, cause?: unknown): BerthError {
  return new BerthError('invalid_argument', 'image_not_found', `the image ${path} cannot be used: ${why}`, { cause })
}
