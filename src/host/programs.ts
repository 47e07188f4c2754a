/** Which of the programs a host needs are here, and what they are. */
import { fileURLToPath } from 'node:url'
import { BerthError } from '../errors.ts'
import type { RuntimeInfo } from '../schemas/host.ts'
import { findProgram, runCommand } from './command.ts'
import { CommandRuntime, runtimeProfiles, type OciRuntime } from './oci-runtime.ts'

export interface HostPrograms {
  conmon: string
  /** tini: pid 1 above a program; reaps, forwards signals, and exits as the program does (127 when there is none). */
  init: string
  /** catatonit: pid 1 of a sandbox that idles; reaps, and needs no child. */
  idle: string
  /** Statically linked. */
  busybox: string
  /** Works on files from inside a sandbox; statically linked, compiled from native/ by `npm run setup`. */
  files: string
}

const filesPath = fileURLToPath(new URL('../../build/files', import.meta.url))

/** @throws BerthError unavailable `program_not_found` with the command that mends it. */
export function discoverPrograms (): HostPrograms {
  return {
    conmon: mustFindProgram('conmon'),
    init: mustFindProgram('tini-static'),
    idle: mustFindProgram('catatonit'),
    busybox: mustFindProgram('busybox'),
    files: mustFindBuilt(filesPath),
  }
}

function mustFindProgram (name: string): string {
  const path = findProgram(name)
  if (!path) throw new BerthError('unavailable', 'program_not_found', `${name} is not installed on this host; run: berth doctor`)
  return path
}

function mustFindBuilt (path: string): string {
  if (findProgram(path)) return path
  throw new BerthError('unavailable', 'program_not_found', `${path} has not been built; run: npm run setup`)
}

export interface DiscoverRuntimesOptions {
  defaultRuntime: string
  runtimeRoot: (name: string) => string
  programs: HostPrograms
  joinCgroupPath: string
  withoutNetSysctlsPath: string
}

/** The OCI runtimes of this host, by name. One that cannot work is left out, unless it is the default: then nothing starts. */
export async function discoverRuntimes (options: DiscoverRuntimesOptions): Promise<{ byName: Map<string, OciRuntime>, infos: RuntimeInfo[] }> {
  const byName = new Map<string, OciRuntime>()
  const infos: RuntimeInfo[] = []
  let problem = 'is not installed on this host'
  for (const profile of Object.values(runtimeProfiles)) {
    const path = findProgram(profile.name)
    const version = path ? parseRuntimeVersion((await runCommand(path, ['--version'])).stdout) : undefined
    if (!path || !version || isTooOld(version, profile.oldestRelease)) {
      if (path && profile.name === options.defaultRuntime) problem = version ? `of this host is too old (${version}; ${profile.oldestRelease} or later is needed)` : 'of this host does not say its version'
      continue
    }
    const root = options.runtimeRoot(profile.name)
    const startPrefix = isTooOld(version, profile.oldestNetnsRelease) ? [options.withoutNetSysctlsPath] : []
    byName.set(profile.name, new CommandRuntime({ profile, path, root, conmonPath: options.programs.conmon, joinCgroupPath: options.joinCgroupPath, startPrefix }))
    infos.push({ name: profile.name, path, version, ...(profile.platform ? { platform: profile.platform } : {}), isDefault: profile.name === options.defaultRuntime })
  }
  if (!byName.has(options.defaultRuntime)) {
    throw new BerthError('unavailable', 'runtime_missing', `the OCI runtime ${options.defaultRuntime} ${problem}; run: berth doctor`)
  }
  return { byName, infos }
}

/** A version without a date in it is one of the makers' own builds: taken as new. */
export function isTooOld (version: string, oldestRelease: number | undefined): boolean {
  const release = /(\d{8})(?:\.\d+)?$/.exec(version)?.[1]
  return oldestRelease !== undefined && release !== undefined && Number(release) < oldestRelease
}

/** The first line of `--version`, as runsc and runc print it: "runsc version 0.0~20240729.0". */
export function parseRuntimeVersion (text: string): string | undefined {
  return /^\S+ version (\S+)/.exec(text)?.[1]
}
