/** FUSE mounts: made on a given /dev/fuse, tuned and ended without ever asking their server. */
import { closeSync, mkdtempSync, openSync, rmdirSync, writeSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { encodeResend, maxReadBytes } from './fuse-protocol.ts'
import { mount, MNT_DETACH, MNT_FORCE, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, tryUnmount, UMOUNT_NOFOLLOW } from './libc.ts'

/** Mounts a read-only FUSE file system whose server reads `fd`; it need not run. Throws an Error with `code`. */
export function mountFuse (fd: number, target: string): void {
  const options = `fd=${fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=${maxReadBytes}`
  mount('berth', target, 'fuse', MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
}

/** Sets how far the kernel reads ahead on a mount; 128 KiB at first. Throws when nothing is mounted there. */
export async function raiseReadAhead (target: string, kibibytes: number): Promise<void> {
  await writeFile(`/sys/class/bdi/${await deviceOf(target)}/read_ahead_kb`, String(kibibytes))
}

/** Ends a FUSE mount whoever serves or uses it: every read that waits fails, and it is out of sight. One that is not mounted is fine. */
export async function abortFuse (target: string): Promise<void> {
  const device = await deviceOf(target).catch(() => undefined)
  if (device === undefined) return
  // Only there where fusectl is mounted; it reaches also what another mount namespace holds.
  await writeFile(`/sys/fs/fuse/connections/${device.split(':')[1]}/abort`, '1').catch(() => {})
  await tryUnmount(target, UMOUNT_NOFOLLOW | MNT_FORCE | MNT_DETACH)
}

/** Whether this process may mount FUSE, and the kernel lets a server take over from a dead one (Linux 6.9). */
export async function isFuseUsable (): Promise<boolean> {
  const target = mkdtempSync(join(tmpdir(), 'berth-fuse-probe-'))
  let fd
  try {
    fd = openSync('/dev/fuse', 'r+')
    mountFuse(fd, target)
    writeSync(fd, encodeResend())
    return true
  } catch {
    return false
  } finally {
    await abortFuse(target)
    if (fd !== undefined) closeSync(fd)
    rmdirSync(target)
  }
}

/** `<major>:<minor>` of a mount, from /proc/self/mountinfo (proc(5)): looking at the mount itself would ask its server. */
async function deviceOf (target: string): Promise<string> {
  const escaped = target.replace(/[ \t\n\\]/g, character => `\\${character.charCodeAt(0).toString(8).padStart(3, '0')}`)
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').map(line => line.split(' '))
  const device = lines.findLast(fields => fields[4] === escaped)?.[2]
  if (device === undefined) throw new Error('nothing is mounted there')
  return device
}
