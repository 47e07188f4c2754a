/** What the program inside refuses, as errors: what it says is hostile, so the words are ours wherever they can be. */
import { BerthError, type ErrorKind } from '../../errors.ts'
import type { FileProblem } from './file-protocol.ts'

interface Meaning {
  kind: ErrorKind
  message: string
  /** Whether the program's own words say more. */
  isExplained?: boolean
}

const meanings: Readonly<Record<FileProblem, Meaning>> = Object.freeze({
  path_not_found: { kind: 'not_found', message: 'there is nothing at this path in the sandbox' },
  not_a_directory: { kind: 'conflict', message: 'a part of this path is not a directory' },
  is_directory: { kind: 'conflict', message: 'this is a directory; list it, or take it as an archive' },
  not_a_file: { kind: 'conflict', message: 'this is neither a file nor a directory: a FIFO, a socket or a device is not read or written here' },
  permission_denied: { kind: 'permission_denied', message: 'the user may not do this in the sandbox; name another one by ?user=, such as root' },
  no_space: { kind: 'exhausted', message: 'there is no room for it in the sandbox; remove something there, or give it more resources.diskBytes' },
  path_exists: { kind: 'conflict', message: 'there is something at this path already; allow overwrite, or choose another' },
  directory_not_empty: { kind: 'conflict', message: 'this directory is not empty; remove it with recursive' },
  read_only: { kind: 'conflict', message: 'this file system is read-only in the sandbox' },
  busy: { kind: 'conflict', message: 'this is a mount point, or is in use in a way that forbids it' },
  too_many_links: { kind: 'invalid_argument', message: 'this path goes in a circle of symbolic links, or through too many' },
  name_too_long: { kind: 'invalid_argument', message: 'a name is longer than 255 bytes, or the path longer than 4095' },
  file_too_large: { kind: 'invalid_argument', message: 'the file is larger than a file may be there' },
  range_not_satisfiable: { kind: 'invalid_argument', message: 'the range begins behind the end of the file' },
  unknown_owner: { kind: 'invalid_argument', message: 'the sandbox has no such user or group; name one of its own, or give numbers' },
  invalid_pattern: { kind: 'invalid_argument', message: 'the pattern is not valid', isExplained: true },
  invalid_archive: { kind: 'invalid_argument', message: 'the body is not a tar archive that can be unpacked there', isExplained: true },
  incomplete: { kind: 'invalid_argument', message: 'the body ended before it was complete: a file was not changed, of an archive what was whole is there' },
  limit_reached: { kind: 'exhausted', message: 'a limit inside the sandbox is reached; try again when less goes on there', isExplained: true },
  failed: { kind: 'conflict', message: 'it did not work in the sandbox', isExplained: true },
})

/** Longest piece of the program's own words that a client is shown, in characters. */
const maxShownLength = 500

/** The error that a refusal means. Its code is the problem, but for `failed`, which is `file_failed`. */
export function problemError (refusal: { problem: FileProblem, message?: string | undefined, path?: string | undefined, sizeBytes?: number | undefined }): BerthError {
  const { problem, path, sizeBytes } = refusal
  const { kind, message, isExplained } = meanings[problem]
  const said = isExplained ? printable(refusal.message ?? '') : ''
  const details = { ...(path === undefined ? {} : { path: printable(path) }), ...(sizeBytes === undefined ? {} : { sizeBytes }) }
  return new BerthError(kind, problem === 'failed' ? 'file_failed' : problem, said === '' ? message : `${message}: ${said}`, Object.keys(details).length > 0 ? { details } : {})
}

/** What was said inside, in a form that harms no terminal and no log. */
function printable (text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu, '\ufffd').slice(0, maxShownLength)
}

/** The program did not answer as it does: it was killed, or something inside speaks in its place. */
export function brokenAnswer (what: string): BerthError {
  return new BerthError('unavailable', 'file_program_failed', `the program that works on files inside the sandbox ${what}; something in the sandbox may have interfered, try again`)
}

/** Nothing came from the program for so long. */
export function programSilent (silenceMs: number): BerthError {
  return new BerthError('timed_out', 'file_program_silent', `nothing came from the sandbox, or was taken there, for ${Math.round(silenceMs / 1000)} s; it may be paused, or too busy: try again`)
}

export function bodyStalled (): BerthError {
  return new BerthError('timed_out', 'request_too_slow', 'the body stood still for too long; nothing was changed')
}

export function clientGone (cause?: Error): BerthError {
  return new BerthError('cancelled', 'client_gone', 'the client went away before its body was complete; nothing was changed', { cause })
}
