/**
 * What the daemon and the static program /.berth/files say to each other. The program runs inside the sandbox, as one exec for each call,
 * with the identity of the user that was asked for: whatever a path leads to is decided by the sandbox's own kernel, for that user.
 *
 *   files OPERATION [--name=value | --flag]... -- PATH [PATH]
 *
 * Paths are the bytes of the argument; with --base64 (paths, globs and --after) base64 of them. Standard output begins with one line of
 * JSON, a FileHeader; what follows it is said at each operation. A name that is not UTF-8 is base64, and its object says encoding base64.
 * The program never waits for a FIFO, a device or a socket: what is neither file nor directory is refused as `not_a_file`.
 * It exits with 0 when the operation was done, 1 when it was refused, 2 for arguments that it does not know. What breaks off behind its
 * header (read, archive, list) exits with 1 too, and says why on standard error, where nothing goes else. What it says is said from inside: it is to be checked like a request.
 *
 *   stat [--no-follow] PATH           {ok, entry}
 *   list [--after=NAME] --limit=N PATH   {ok, entry, hasMore}, then an entry a line: by name, bytewise, from behind NAME on
 *   read [--first=N] [--last=N | --suffix=N] PATH   {ok, entry, first, lengthBytes}, then so many bytes; without lengthBytes (a file of
 *        /proc, whose size is 0) bytes until it ends. A range that begins behind the end: range_not_satisfiable, with sizeBytes
 *   write [--mode=OCTAL] [--owner=USER[:GROUP]] [--parents] [--no-replace] [--size=N] PATH   {ok, isReady: true} when nothing speaks against
 *        it and before any input is read, or the refusal; then framed standard input; {ok, entry, isNew} as a second line when it is in
 *        place. Written beside the file that PATH leads to, as .berth-upload-XXXXXX, and renamed over it. Mode and owner are those of
 *        the file before, else 0644 and the user. --size: refused with no_space at once where there is no room
 *   mkdir [--parents] [--mode=OCTAL] PATH   {ok, entry, isNew}
 *   move [--no-replace] [--parents] FROM TO   {ok, entry}; between file systems too, by /.berth/busybox mv to a .berth-upload-XXXXXX beside TO
 *   remove [--recursive] [--ignore-missing] PATH   {ok, removed: number}; a mount point is `busy`; follows no link, takes trees of any depth
 *   archive PATH                      {ok, entry}, then a tar of what PATH leads to, under the base name of PATH; `.` for the root. Sockets, and
 *        what proc, sysfs and their like hold, are left out; deeper than 400 directories it breaks off
 *   extract [--parents] [--owner=USER[:GROUP]] PATH   {ok, isReady: true} as of write; framed standard input, a tar, into this directory; {ok} when all is in place.
 *        Files are replaced, directories that are there stay as they are; set-user-id and set-group-id bits are dropped; owners are those of
 *        --owner, else the user. A name with .. is invalid_archive. When it is cut off, what was complete stays
 *   watch [--recursive] PATH          {ok}, then a FileChange a line, the first `ready`, until nobody reads, or PATH itself is removed or moved;
 *        more than 65,536 directories at its beginning are limit_reached, later an overflow of the directory that is not seen
 *   shell                             becomes the shell that /etc/passwd inside names for the user, or the first there is of bash, sh and
 *        /.berth/busybox sh; interactive, no login shell, so that the PATH of the image holds. Sets SHELL, and HOME, TERM and PATH where missing
 *   search [--glob=GLOB] [--text=TEXT] [--regex] [--ignore-case] --limit=N [--max-ms=N] PATH   {ok}, then a FileMatch a line, last
 *        {done: true, isTruncated, skipped}. A glob with a slash is for the path from PATH on, where ** is any number of directories; one
 *        without is for names. TEXT is in bytes, --regex makes it a POSIX extended expression, --ignore-case knows ASCII. Follows no link
 *
 * Framed standard input: u32be length and so many bytes, again and again; length 0 says that this was all. An end before that undoes
 * what can be undone: it is how a client, or a daemon, that went away is noticed.
 */
import type { FileEntry } from '../../schemas/file.ts'

/** As inside as on the wire: `path_not_found` where some part of the path is missing, and so on; the route's table says with what status. */
export const fileProblems = [
  'path_not_found', 'not_a_directory', 'is_directory', 'not_a_file', 'permission_denied', 'no_space', 'path_exists', 'directory_not_empty',
  'read_only', 'busy', 'too_many_links', 'name_too_long', 'file_too_large', 'range_not_satisfiable', 'unknown_owner', 'invalid_pattern', 'invalid_archive',
  'incomplete', 'limit_reached', 'failed',
] as const
export type FileProblem = typeof fileProblems[number]

export type FileHeader =
  | { ok: true, entry?: FileEntry, hasMore?: boolean, first?: number, lengthBytes?: number, isReady?: boolean, isNew?: boolean, removed?: number }
  | { ok: false, problem: FileProblem, message: string, path?: string, sizeBytes?: number }

/** Where the program is seen inside. */
export const fileProgramPath = '/.berth/files'

/** Largest piece of framed input. */
export const maxFrameBytes = 1024 ** 2
