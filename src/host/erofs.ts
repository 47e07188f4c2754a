/** EROFS: a read-only file system whose metadata lies in one small file and whose data is a tar, as it is. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../errors.ts'
import { runCommand } from './command.ts'
import { MS_NODEV, MS_RDONLY, tryMount } from './libc.ts'
import { unmount } from './mount.ts'

// 50 thousand entries take a second.
const indexTimeoutMs = 10 * 60_000

/**
 * Makes the metadata of a file system whose data stays in an uncompressed tar (`mkfs.erofs --tar=i`). Whiteouts become what overlayfs
 * takes for them. The same tar makes the same bytes: without a UUID, with time zero for directories that have no entry of their own.
 * Answers undefined, or why this tar cannot be indexed.
 *
 * @throws BerthError exhausted `disk_full`, timed_out `image_unpack_timed_out`, unavailable `program_not_found` or `image_unpack_interrupted`.
 */
export async function makeTarIndex (tarPath: string, metaPath: string, options: { signal?: AbortSignal } = {}): Promise<string | undefined> {
  // It dies with this process: no one writes to a directory that the next one clears.
  const result = await runCommand('setpriv', ['--pdeathsig', 'KILL', '--no-new-privs', 'mkfs.erofs', '--quiet', '-d2', '--tar=i', '--aufs', '-T0', '--mkfs-time', '-Uclear', metaPath, tarPath],
    { timeoutMs: indexTimeoutMs, signal: options.signal })
  if (result.exitCode === 0) return undefined
  const cause = new Error(`mkfs.erofs exited with ${result.exitCode}: ${result.stderr.slice(-2000)}`)
  if (result.exitCode === 124) throw new BerthError('timed_out', 'image_unpack_timed_out', `a layer was not indexed within ${indexTimeoutMs / 1000} s; try again when the host is less busy`, { cause })
  if (/no space left|quota exceeded/i.test(result.stderr)) throw new BerthError('exhausted', 'disk_full', 'the host has no disk space left for the layers of the image; free some or use a smaller image', { cause })
  if (/failed to execute/i.test(result.stderr)) throw new BerthError('unavailable', 'program_not_found', 'the program mkfs.erofs is not installed on this host; run: berth doctor', { cause })
  if (result.exitCode === 128 + 9) throw new BerthError('unavailable', 'image_unpack_interrupted', 'the indexing of a layer was interrupted on the host; try again', { cause })
  return cause.message
}

export interface LayerMount {
  metaPath: string
  /** The tar: a regular file, or a file that a FUSE server serves. */
  devicePath: string
  target: string
}

/**
 * Mounts a layer read-only, without device nodes; setuid programs keep their mode. It never blocks this process, even where this process
 * serves the device. mount(2) itself, for mount(8) may put a loop device between.
 */
export async function mountLayer ({ metaPath, devicePath, target }: LayerMount): Promise<void> {
  if (devicePath.includes(',')) throw new BerthError('invalid_argument', 'path_not_mountable', 'the directory for images may not have a comma in its path')
  if (await tryMount(metaPath, target, 'erofs', MS_RDONLY | MS_NODEV, `device=${devicePath}`)) return
  throw new Error(`mount of erofs on ${target} failed`)
}

/** Whether this host can mount layers, found by mounting one: file-backed EROFS with an extra device needs Linux 6.12. The directory must be writable. */
export async function probeErofs (dir: string): Promise<{ ok: true } | { ok: false, why: string }> {
  const work = await mkdtemp(join(dir, 'erofs-probe-'))
  const [tarPath, metaPath, target] = ['tar', 'meta', 'mnt'].map(name => join(work, name)) as [string, string, string]
  try {
    const content = 'berth'
    await writeFile(tarPath, oneFileTar('probe', content))
    const refusal = await makeTarIndex(tarPath, metaPath)
    if (refusal !== undefined) return { ok: false, why: 'mkfs.erofs of this host cannot index a tar; erofs-utils 1.8 or later is needed' }
    await mkdir(target)
    await mountLayer({ metaPath, devicePath: tarPath, target })
    if (await readFile(join(target, 'probe'), 'utf8') !== content) return { ok: false, why: 'EROFS of this kernel does not read what was written' }
    return { ok: true }
  } catch (error) {
    if (error instanceof BerthError) return { ok: false, why: error.message }
    return { ok: false, why: 'the kernel cannot mount EROFS from files; Linux 6.12 or later with EROFS is needed' }
  } finally {
    await unmount(target)
    await rm(work, { recursive: true })
  }
}

/** A tar of one small regular file (POSIX ustar). */
function oneFileTar (name: string, content: string): Buffer {
  const tar = Buffer.alloc(4 * 512)
  const fields: ReadonlyArray<readonly [number, string]> = [[0, name], [100, '0000644\0'], [108, '0000000\0'], [116, '0000000\0'],
    [124, `${content.length.toString(8).padStart(11, '0')}\0`], [136, '00000000000\0'], [148, ' '.repeat(8)], [156, '0'], [257, 'ustar\u000000']]
  for (const [offset, text] of fields) tar.write(text, offset, 'latin1')
  const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0)
  tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  tar.write(content, 512, 'latin1')
  return tar
}
