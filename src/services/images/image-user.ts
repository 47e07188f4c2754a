import { BerthError } from '../../errors.ts'
import { ContainedFileError, readContained } from './contained-file.ts'

/** A user of an image, as numbers. */
export interface ResolvedUser {
  uid: number
  gid: number
  additionalGids: number[]
  home?: string
  name?: string
}

interface PasswdEntry {
  name: string
  uid: number
  gid: number
  home: string
}

interface GroupEntry {
  name: string
  gid: number
  members: string[]
}

// Far above any real passwd file; bounds what a hostile image makes the daemon read.
const maxFileBytes = 1024 ** 2
// uid_t's last value, 2^32 - 1, means "no user" (chown(2)).
const maxId = 2 ** 32 - 2

/**
 * Finds `uid`, `uid:gid`, `name` or `name:group` in the image's etc/passwd and etc/group, by Docker's rules: a number
 * needs no entry; without a group the user's own is taken (0 for a number without entry) and its further groups are added.
 *
 * @throws BerthError invalid_argument `user_not_found` or `group_not_found`; unavailable `registry_unavailable`.
 */
export async function resolveImageUser (lowerDirs: readonly string[], user: string): Promise<ResolvedUser> {
  const [userPart = '', groupPart, ...rest] = user.split(':')
  if (userPart === '' || groupPart === '' || rest.length > 0) throw notFound('user', user, 'write uid, uid:gid, name or name:group')
  const passwd = parsePasswd(await readDatabase(lowerDirs, 'etc/passwd'))
  const groups = parseGroup(await readDatabase(lowerDirs, 'etc/group'))

  const number = parseId(userPart)
  const entry = passwd.find(candidate => number === undefined ? candidate.name === userPart : candidate.uid === number)
  const uid = number ?? entry?.uid
  if (uid === undefined) throw notFound('user', userPart, 'the image\'s /etc/passwd has no such name; a number always works')

  const found: ResolvedUser = { uid, gid: entry?.gid ?? 0, additionalGids: [] }
  if (entry?.home.startsWith('/')) found.home = entry.home
  if (entry) found.name = entry.name
  if (groupPart !== undefined) {
    found.gid = resolveGroup(groups, groupPart)
  } else if (entry) {
    const gids = groups.filter(group => group.members.includes(entry.name)).map(group => group.gid)
    found.additionalGids = [...new Set(gids)].filter(gid => gid !== found.gid).sort((a, b) => a - b)
  }
  return found
}

function resolveGroup (groups: readonly GroupEntry[], wanted: string): number {
  const gid = parseId(wanted) ?? groups.find(group => group.name === wanted)?.gid
  if (gid === undefined) throw notFound('group', wanted, 'the image\'s /etc/group has no such name; a number always works')
  return gid
}

async function readDatabase (lowerDirs: readonly string[], path: string): Promise<string> {
  try {
    const content = await readContained(lowerDirs, path, { links: 'contain', maxBytes: maxFileBytes })
    return content?.toString('utf8') ?? ''
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') {
      throw new BerthError('unavailable', 'registry_unavailable', `the image's /${path} is not on this host yet and cannot be fetched; try again when its registry answers`, { cause: error })
    }
    if (!(error instanceof ContainedFileError)) throw error
    throw new BerthError('invalid_argument', 'image_invalid', `the image's /${path} cannot be used: ${error.message}`, { cause: error })
  }
}

/** Entries of a passwd(5) file; lines that are none are skipped. */
function parsePasswd (text: string): PasswdEntry[] {
  return text.split('\n').flatMap(line => {
    const [name, , uidText = '', gidText = '', , home = ''] = line.split(':')
    const uid = parseId(uidText)
    const gid = parseId(gidText)
    return name && uid !== undefined && gid !== undefined ? [{ name, uid, gid, home: home.includes('\0') ? '' : home }] : []
  })
}

/** Entries of a group(5) file; lines that are none are skipped. */
function parseGroup (text: string): GroupEntry[] {
  return text.split('\n').flatMap(line => {
    const [name, , gidText = '', members = ''] = line.split(':')
    const gid = parseId(gidText)
    return name && gid !== undefined ? [{ name, gid, members: members.trim().split(',') }] : []
  })
}

function parseId (text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined
  const id = Number(text)
  return id <= maxId ? id : undefined
}

function notFound (what: 'user' | 'group', name: string, advice: string): BerthError {
  return new BerthError('invalid_argument', `${what}_not_found`, `there is no ${what} ${name}: ${advice}`)
}
