import { posix } from 'node:path'
import { BerthError } from '../errors.ts'

/** One side of `berth cp`, as it was written. */
export interface CopyPlace {
  /** In which sandbox, as typed; undefined is here. */
  sandbox: string | undefined
  /** `-` is a tar on standard input or output, where `sandbox` is undefined. */
  path: string
}

/** `SANDBOX:PATH` or a path here. What begins with `/` or `.` is a path here, though it has a colon. */
export function parseCopyPlace (text: string): CopyPlace {
  const at = text.indexOf(':')
  if (at === -1 || /^[/.]/.test(text)) {
    if (text === '') throw new BerthError('invalid_argument', 'usage', "cp: '' is no path; write it like ./file, or SANDBOX:/path")
    return { sandbox: undefined, path: text }
  }
  const [sandbox, path] = [text.slice(0, at), text.slice(at + 1)]
  if (sandbox === '' || path === '') throw new BerthError('invalid_argument', 'usage', `cp: '${text}' is not a place; write it like SANDBOX:/path, or ./${text} for a file here`)
  return { sandbox, path }
}

/** Whether what is in the directory is meant, and not the directory itself. */
export function meansContents (path: string): boolean {
  return /(^|\/)\.\/*$/.test(path)
}

/** Whether only a directory can be meant. */
export function meansDirectory (path: string): boolean {
  return path.endsWith('/') || meansContents(path)
}

/** The path inside, from `/` on, without dots and doubled or trailing slashes. What `..` does across a symbolic link is left to those who write it. */
export function insidePath (path: string): string {
  const normal = posix.normalize(`/${path}`)
  return normal.length > 1 ? normal.replace(/\/$/, '') : normal
}
