import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { chmod, chown, copyFile, mkdir, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../../errors.ts'
import { busyboxApplets } from '../../host/umoci.ts'
import type { ImageConfig } from './image-config.ts'

// Part of the image's digest: raise it with every change below.
const recipeVersion = 1
const berthId = 1000

export const baseImageConfig: Readonly<ImageConfig> = Object.freeze({
  env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
  user: `${berthId}:${berthId}`,
  workingDir: '/workspace',
})

const directories: ReadonlyArray<{ path: string, mode: number, owner?: number }> = [
  { path: 'bin', mode: 0o755 },
  { path: 'dev', mode: 0o755 },
  { path: 'etc', mode: 0o755 },
  { path: 'home', mode: 0o755 },
  { path: 'proc', mode: 0o555 },
  { path: 'root', mode: 0o700 },
  { path: 'run', mode: 0o755 },
  { path: 'sys', mode: 0o555 },
  { path: 'tmp', mode: 0o1777 },
  { path: 'usr', mode: 0o755 },
  { path: 'usr/local', mode: 0o755 },
  { path: 'usr/local/bin', mode: 0o755 },
  { path: 'var', mode: 0o755 },
  { path: 'var/tmp', mode: 0o1777 },
  { path: 'workspace', mode: 0o755, owner: berthId },
]

const links: Readonly<Record<string, string>> = {
  sbin: 'bin',
  'usr/bin': '../bin',
  'usr/sbin': '../bin',
}

const files: Readonly<Record<string, string>> = {
  'etc/passwd': `root:x:0:0:root:/root:/bin/sh\nberth:x:${berthId}:${berthId}:berth:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n`,
  'etc/group': `root:x:0:\nberth:x:${berthId}:\nnogroup:x:65534:\n`,
  'etc/os-release': 'NAME="Berth base"\nID=berth\nPRETTY_NAME="Berth base image (busybox)"\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\n',
  // Each sandbox's own are mounted over these.
  'etc/hosts': '',
  'etc/hostname': '',
  'etc/resolv.conf': '',
}

/** `berth/base`: a small Linux userland made from the host's own static busybox, so that no registry is needed. */
export class BaseImage {
  readonly #busyboxPath: string
  /** The digest, with what identified the file it was taken from. */
  #known: { identity: string, digest: string } | undefined

  constructor (options: { busyboxPath: string }) {
    this.#busyboxPath = options.busyboxPath
  }

  /** Digest of the image: of this recipe and the busybox binary. @throws BerthError unavailable `program_not_found`. */
  async digest (): Promise<string> {
    const identity = await this.#identify()
    if (this.#known?.identity === identity) return this.#known.digest
    const hash = createHash('sha256').update(`berth/base ${recipeVersion}\n`)
    for await (const chunk of createReadStream(this.#busyboxPath)) hash.update(chunk as Buffer)
    const digest = `sha256:${hash.digest('hex')}`
    this.#known = { identity, digest }
    return digest
  }

  /** Makes the root file system as `<dir>/rootfs`. */
  async build (dir: string): Promise<void> {
    const rootfs = join(dir, 'rootfs')
    await mkdir(rootfs)
    await chmod(rootfs, 0o755)
    for (const { path, mode, owner } of directories) {
      await mkdir(join(rootfs, path))
      // After mkdir, whose mode the umask narrows.
      await chmod(join(rootfs, path), mode)
      if (owner !== undefined) await chown(join(rootfs, path), owner, owner)
    }
    for (const [path, target] of Object.entries(links)) await symlink(target, join(rootfs, path))
    for (const [path, content] of Object.entries(files)) {
      await writeFile(join(rootfs, path), content)
      await chmod(join(rootfs, path), 0o644)
    }
    await copyFile(this.#busyboxPath, join(rootfs, 'bin/busybox'))
    await chmod(join(rootfs, 'bin/busybox'), 0o755)
    for (const name of await busyboxApplets(this.#busyboxPath)) await symlink('busybox', join(rootfs, 'bin', name))
  }

  async #identify (): Promise<string> {
    try {
      const { dev, ino, size, mtimeMs } = await stat(this.#busyboxPath)
      return [dev, ino, size, mtimeMs].join(' ')
    } catch (error) {
      throw new BerthError('unavailable', 'program_not_found', 'berth/base cannot be made: busybox is not installed on this host; install busybox-static or run: berth doctor', { cause: error })
    }
  }
}
