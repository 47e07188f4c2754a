/** Mounts that belong to sandboxes: overlays and disk images, taken and given back one by one, never by prefix. */
import { readFile } from 'node:fs/promises'
import { BerthError } from '../errors.ts'
import { runCommand } from './command.ts'
import { mount, mountWithOptions, MNT_DETACH, MS_NODEV, tryUnmount, UMOUNT_NOFOLLOW } from './libc.ts'

export interface OverlayMount {
  /** Topmost first. */
  lowerDirs: readonly string[]
  upperDir: string
  workDir: string
  target: string
}

// mount(2) takes a page of options, with the NUL at their end.
const maxOptionBytes = 4095

/** Mounts an overlay. One whose layers' paths fill more than a page needs Linux 6.5 (`lowerdir+`). */
export function mountOverlay (overlay: OverlayMount): void {
  const { lowerDirs, upperDir, workDir, target } = overlay
  for (const path of [...lowerDirs, upperDir, workDir]) {
    if (/[,:\\]/.test(path)) throw new BerthError('invalid_argument', 'path_not_mountable', 'a directory of a rootfs may not have a comma, colon or backslash in its path')
  }
  const options = `lowerdir=${lowerDirs.join(':')},upperdir=${upperDir},workdir=${workDir}`
  if (Buffer.byteLength(options) <= maxOptionBytes) return mount('overlay', target, 'overlay', MS_NODEV, options)
  mountWithOptions('overlay', target, [['source', 'overlay'], ...lowerDirs.map(dir => ['lowerdir+', dir] as const), ['upperdir', upperDir], ['workdir', workDir]])
}

/** Unmounts one mount point; one that is not mounted is fine. */
export async function unmount (target: string): Promise<void> {
  if (await tryUnmount(target, UMOUNT_NOFOLLOW)) return
  if (!await isMounted(target)) return
  const result = await runCommand('umount', ['--no-canonicalize', '--', target])
  if (result.exitCode !== 0 && await isMounted(target)) throw new Error(`umount ${target}: ${result.stderr.trim()}`)
}

/** Takes a mount out of sight at once, whatever still uses it; one that is not mounted is fine. For a file system whose server is gone. */
export async function detach (target: string): Promise<void> {
  await tryUnmount(target, UMOUNT_NOFOLLOW | MNT_DETACH)
}

/** Makes a sparse ext4 image of a size and mounts it through a loop device that the kernel frees at unmount. */
export async function createDiskImage (file: string, sizeBytes: number): Promise<void> {
  const made = await runCommand('mkfs.ext4', ['-q', '-F', '-m', '0', '-E', 'lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0', '-O', '^has_journal', file, `${Math.ceil(sizeBytes / 1024)}k`])
  if (made.exitCode !== 0) throw new Error(`mkfs.ext4: ${made.stderr.trim()}`)
}

export async function mountDiskImage (file: string, target: string): Promise<void> {
  const result = await runCommand('mount', ['-t', 'ext4', '-o', 'loop,nodev,nosuid', '--', file, target])
  if (result.exitCode !== 0) throw new Error(`mount of a disk image: ${result.stderr.trim()}`)
}

export async function isMounted (target: string): Promise<boolean> {
  return (await mountPoints()).has(target)
}

/** Every mount point of this mount namespace (proc(5), /proc/self/mountinfo, fifth field, octal escapes undone). */
export async function mountPoints (): Promise<Set<string>> {
  const text = await readFile('/proc/self/mountinfo', 'utf8')
  const points = new Set<string>()
  for (const line of text.split('\n')) {
    const point = line.split(' ')[4]
    if (point) points.add(point.replace(/\\([0-7]{3})/g, (_match, octal: string) => String.fromCharCode(parseInt(octal, 8))))
  }
  return points
}
