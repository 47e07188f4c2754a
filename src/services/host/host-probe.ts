/** What the checks of a host share: what they see of it, and how they say what they found. */
import { access, mkdtemp, readFile, rmdir } from 'node:fs/promises'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { toBerthError } from '../../errors.ts'
import { runCommand } from '../../host/command.ts'
import { probeErofs } from '../../host/erofs.ts'
import { listForwardObstacles, type ForwardObstacle } from '../../host/forward-chains.ts'
import { isFuseUsable } from '../../host/fuse-mount.ts'
import { probeVeth } from '../../host/ip-batch.ts'
import { Nftables } from '../../host/nftables.ts'
import { probeTokenBucket } from '../../host/traffic-control.ts'

export type HostCheckStatus = 'ok' | 'missing' | 'too_old' | 'broken'

export interface HostCheckResult {
  status: HostCheckStatus
  version?: string
  /** What is wrong, as a sentence without an end; absent when the status is `ok`. */
  problem?: string
  /** The command that mends it, where the one of the check is not exact enough. */
  fix?: string
}

/** What the probes see of the host. */
export interface HostView {
  /** Runs a program to its end; undefined when there is no such program. */
  run (file: string, args: readonly string[]): Promise<{ exitCode: number, stdout: string, stderr: string } | undefined>
  /** The text of a file; undefined when it cannot be read. */
  read (path: string): Promise<string | undefined>
  exists (path: string): Promise<boolean>
  /** Mounts a layer of an image, as a try. */
  tryErofs (): Promise<{ ok: true } | { ok: false, why: string }>
  /** Mounts a file system that a program serves, as a try. */
  tryFuse (): Promise<boolean>
  /** Opens the packet filter. Throws a BerthError that says why it cannot be. */
  tryNftables (): Promise<void>
  /** Makes a network namespace with a link to it, as a try. Throws what stands in the way. */
  tryVeth (): Promise<void>
  /** Limits the bandwidth of a link that it makes. Throws what stands in the way. */
  tryTokenBucket (): Promise<void>
  /** Chains of other programs that drop what sandboxes send. Throws where they cannot be read. */
  listForwardObstacles (): Promise<ForwardObstacle[]>
  kernelRelease: string
  nodeVersion: string
  uid: number
}

const probeTimeoutMs = 10_000

/** This machine. */
export const thisHost: HostView = {
  async run (file, args) {
    try {
      return await runCommand(file, args, { timeoutMs: probeTimeoutMs, maxOutputBytes: 64 * 1024 })
    } catch (error) {
      if (toBerthError(error).code === 'program_not_found') return undefined
      throw error
    }
  },
  async read (path) {
    return await readFile(path, 'utf8').catch(() => undefined)
  },
  async exists (path) {
    return await access(path).then(() => true, () => false)
  },
  async tryErofs () {
    const dir = await mkdtemp(join(tmpdir(), 'berth-doctor-'))
    return await probeErofs(dir).finally(() => rmdir(dir))
  },
  tryFuse: isFuseUsable,
  tryNftables: async () => { Nftables.open().close() },
  tryVeth: probeVeth,
  tryTokenBucket: probeTokenBucket,
  listForwardObstacles,
  kernelRelease: release(),
  nodeVersion: process.versions.node,
  uid: process.getuid?.() ?? -1,
}

/** The first dotted version in a program's output, as numbers. */
export function parseVersion (output: string): number[] | undefined {
  const match = /(\d+)\.(\d+)(?:\.(\d+))?/.exec(output)
  return match?.slice(1).filter((part) => part !== undefined).map(Number)
}

/** Whether dotted version `a` is `b` or later. */
export function isAtLeast (a: readonly number[], b: readonly number[]): boolean {
  for (let i = 0; i < b.length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference > 0
  }
  return true
}

export const ok = (version?: string): HostCheckResult => ({ status: 'ok', version })
export const missing = (problem: string): HostCheckResult => ({ status: 'missing', problem })
export const broken = (problem: string): HostCheckResult => ({ status: 'broken', problem })
export const tooOld = (version: string, problem: string): HostCheckResult => ({ status: 'too_old', version, problem })

interface ProgramNeeds {
  args?: readonly string[]
  minimum?: readonly number[]
}

/** Looks whether a program is there, starts, and is young enough. */
export async function probeProgram (host: HostView, file: string, { args = ['--version'], minimum }: ProgramNeeds = {}): Promise<HostCheckResult> {
  const result = await host.run(file, args)
  if (result === undefined) return missing(`there is no program ${file} on PATH`)
  // Some (mkfs.ext4) write their version to stderr.
  const version = parseVersion(result.stdout + result.stderr)
  if (result.exitCode !== 0) return broken(`${file} ${args.join(' ')} ends with exit code ${result.exitCode}`)
  if (minimum !== undefined) {
    if (version === undefined) return broken(`${file} does not say its version`)
    if (!isAtLeast(version, minimum)) return tooOld(version.join('.'), `version ${minimum.join('.')} or later is needed`)
  }
  return ok(version?.join('.'))
}

/** The command that installs packages. */
export const apt = (packages: string): string => `sudo apt-get install ${packages}`

/** A check, before what it has in common with all others. */
export type HostCheckRow = [name: string, required: boolean, why: string, fix: string, probe: () => Promise<HostCheckResult>]
