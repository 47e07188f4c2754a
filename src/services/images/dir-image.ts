import { normalize } from 'node:path'
import { BerthError } from '../../errors.ts'
import { isOverlayPath, resolveClientDirectory, type PathRules } from './local-path.ts'

/**
 * A root file system used where it lies: the host path for overlay's lower directory.
 *
 * @throws BerthError as resolveClientDirectory; invalid_argument `image_invalid` for `/` and for a path overlay cannot take.
 */
export async function locateDirImage (path: string, rules: PathRules): Promise<string> {
  if (normalize(path) === '/') throw new BerthError('invalid_argument', 'image_invalid', 'the host\'s own root cannot be an image; use a directory that holds a root file system')
  const real = await resolveClientDirectory(path, rules)
  if (!isOverlayPath(real)) {
    throw new BerthError('invalid_argument', 'image_invalid', `${path} cannot be an image: its path holds ':', ',' or '\\', which overlay mounts cannot take; rename it`)
  }
  return real
}
