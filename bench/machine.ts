/** What the figures were taken on: a figure without it says nothing. */
import { basename } from 'node:path'
import { readdir, readFile } from 'node:fs/promises'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { runChild } from './child.ts'

export interface MachineFacts {
  cores: number
  cpu: string
  memoryGiB: number
  kernel: string
  /** Over one minute, before the first measurement. */
  loadBefore: number
  node: string
  versions: Record<string, string>
  /** Settings of the daemon that came by the environment. */
  settings: Record<string, string>
}

export async function readMachineFacts (programs: Readonly<Record<string, string | undefined>>): Promise<MachineFacts> {
  const versions: Record<string, string> = {}
  for (const [name, path] of Object.entries(programs)) versions[name] = path ? await readVersion(path) : 'not installed'
  return {
    cores: cpus().length,
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    loadBefore: loadavg()[0] ?? 0,
    node: process.version,
    versions,
    settings: Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(BERTH_|UV_)/.test(name)).map(([name, value]) => [name, value ?? ''])),
  }
}

async function readVersion (path: string): Promise<string> {
  const { stdout } = await runChild(path, ['--version'])
  return /version (\S+?),?\s/.exec(stdout)?.[1] ?? 'unknown'
}

export interface ProcessMemory { pssKiB: number, rssKiB: number }

/** What a process keeps in memory: PSS shares pages among those that map them, RSS counts them whole (proc(5), smaps_rollup). */
export async function readProcessMemory (pid: number): Promise<ProcessMemory> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'latin1')
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? NaN)
  return { pssKiB: field('Pss'), rssKiB: field('Rss') }
}

/** Pids of the programs of this name whose command line names a directory. */
export async function findPids (program: string, dir: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const found = await Promise.all(pids.map(async pid => {
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).split('\0')
    return basename(argv[0] ?? '') === program && argv.some(argument => argument.includes(`${dir}/`)) ? Number(pid) : undefined
  }))
  return found.filter(pid => pid !== undefined)
}
