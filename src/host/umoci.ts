import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../errors.ts'
import { runCommand, type CommandResult } from './command.ts'

// An image of some GB on a slow, busy disk takes minutes.
const unpackTimeoutMs = 20 * 60_000
const scanTimeoutMs = 5 * 60_000

/**
 * Unpacks an image of a layout that only Berth writes to into a directory that must not exist: layers in order,
 * whiteouts applied, owners, modes (setuid too), hard links and extended attributes kept, `trusted.overlay.*` dropped.
 * umoci checks each layer against its digest and diff id, and keeps every path inside.
 *
 * @throws BerthError invalid_argument `image_invalid`, exhausted `disk_full`, timed_out `image_unpack_timed_out`,
 * unavailable `program_not_found` or `image_unpack_interrupted`.
 */
export async function unpackImage (options: { layout: string, tag: string, rootfs: string }): Promise<void> {
  // The child dies with the daemon: no one writes to a directory that the next daemon clears.
  const result = await runCommand('setpriv', ['--pdeathsig', 'KILL', 'umoci', 'raw', 'unpack', '--image', `${options.layout}:${options.tag}`, options.rootfs], { timeoutMs: unpackTimeoutMs })
  if (result.exitCode !== 0) throw unpackError(result)
}

/** What a failed `umoci raw unpack` means. */
export function unpackError (result: CommandResult): BerthError {
  const cause = new Error(`umoci exited with ${result.exitCode}: ${result.stderr.slice(-2000)}`)
  if (result.exitCode === 124) {
    return new BerthError('timed_out', 'image_unpack_timed_out', `the image was not unpacked within ${unpackTimeoutMs / 1000} s; try again when the host is less busy`, { cause })
  }
  if (/no space left on device|disk quota exceeded/i.test(result.stderr)) {
    return new BerthError('exhausted', 'disk_full', 'the host has no disk space left to unpack the image; free some or use a smaller image', { cause })
  }
  if (/setpriv: failed to execute|executable file not found/i.test(result.stderr)) {
    return new BerthError('unavailable', 'program_not_found', 'the program umoci is not installed on this host; run: berth doctor', { cause })
  }
  if (result.exitCode > 124) {
    return new BerthError('unavailable', 'image_unpack_interrupted', 'the unpacking of the image was interrupted on the host; try again', { cause })
  }
  const why = /verified reader|mismatch|checksum/i.test(result.stderr) ? 'a layer does not have the content that its image promises' : 'a layer is not a tar archive that can be unpacked here'
  return new BerthError('invalid_argument', 'image_invalid', `the image cannot be unpacked: ${why}`, { cause })
}

/**
 * Device nodes of an unpacked image do not reach a sandbox: those below /dev are deleted (a sandbox mounts its own /dev),
 * any other makes the image invalid. A character device 0:0 would be a whiteout to overlayfs.
 */
export async function refuseDevices (rootfs: string): Promise<void> {
  const result = await runCommand('find', [rootfs, '-xdev', '(', '-type', 'b', '-o', '-type', 'c', ')', '-printf', '%P\\0'], { timeoutMs: scanTimeoutMs, maxOutputBytes: 16 * 1024 ** 2 })
  if (result.exitCode !== 0) throw new Error(`find exited with ${result.exitCode}: ${result.stderr.slice(-2000)}`)
  const devices = result.stdout.split('\0').filter(path => path !== '')
  const outside = devices.find(path => !path.startsWith('dev/'))
  if (outside !== undefined) throw new BerthError('invalid_argument', 'image_invalid', `the image cannot be used: it holds a device node outside /dev (/${outside})`)
  for (const path of devices) await rm(join(rootfs, path))
}

/** Disk space that a directory's content takes, in bytes. */
export async function measureDirectory (dir: string): Promise<number> {
  const result = await runCommand('du', ['--summarize', '--one-file-system', '--block-size=1', dir], { timeoutMs: scanTimeoutMs })
  if (result.exitCode !== 0) throw new Error(`du exited with ${result.exitCode}: ${result.stderr.slice(-2000)}`)
  return Number.parseInt(result.stdout, 10)
}

/** Waits until everything written to the file system that holds this directory is on disk. */
export async function syncFileSystem (dir: string): Promise<void> {
  const result = await runCommand('sync', ['--file-system', dir], { timeoutMs: scanTimeoutMs })
  if (result.exitCode !== 0) throw new Error(`sync exited with ${result.exitCode}: ${result.stderr.slice(-2000)}`)
}

/** Names of the programs that a busybox binary holds, without itself. */
export async function busyboxApplets (busyboxPath: string): Promise<string[]> {
  const result = await runCommand(busyboxPath, ['--list'])
  const names = result.stdout.split('\n').filter(name => /^[A-Za-z0-9[_.-]+$/.test(name) && name !== 'busybox')
  if (result.exitCode !== 0 || names.length === 0) {
    throw new BerthError('unavailable', 'busybox_unusable', 'the busybox program of this host lists no applets; install busybox-static and run: berth doctor')
  }
  return names
}
