/** What a test run left on the host: mounts, control groups, processes, files and parts of networks that were not there before. */
import { execFileSync } from 'node:child_process'
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

// What is being torn down at this moment is no leftover: it must stay for this long to be one.
const settleMs = 3_000
const settleStepMs = 200

export interface LeftoverScan {
  /** What is there now and was not before, a line each; empty when the host is clean. */
  find (): Promise<string[]>
}

/**
 * Remembers what is there now.
 *
 * @param tempDir the run's own temporary directory: what it holds or what names it belongs to the run
 */
export function rememberHost (tempDir: string): LeftoverScan {
  const before = new Set([...cgroupDirs(), ...networkParts()])
  const look = (): string[] => [
    ...mountPoints().filter((point) => point.startsWith(`${tempDir}/`)).map((point) => `mount: ${point}`),
    ...processes().filter(({ pid }) => isOfRun(pid, tempDir)).map(({ pid, cmdline }) => `process ${pid}: ${cmdline.slice(0, 200)}`),
    ...cgroupDirs().filter((dir) => !before.has(dir) && !isOthers(dir, tempDir)).map((dir) => `control group: ${dir}`),
    ...networkParts().filter((part) => !before.has(part) && !hasOthers(tempDir)),
    ...(existsSync(tempDir) ? readdirSync(tempDir) : []).map((name) => `temporary file: ${tempDir}/${name}`),
  ]
  return {
    async find () {
      let left = look()
      for (let waited = 0; left.length > 0 && waited < settleMs; waited += settleStepMs) {
        await delay(settleStepMs)
        const again = new Set(look())
        left = left.filter((line) => again.has(line))
      }
      return left
    },
  }
}

function mountPoints (): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8').trimEnd().split('\n').map((line) => line.split(' ')[4] ?? '')
}

/** Berth's control groups in every hierarchy, v1 (`/sys/fs/cgroup/<controller>/berth`) and v2 (`/sys/fs/cgroup/berth`). */
function cgroupDirs (): string[] {
  return globSync(['/sys/fs/cgroup/berth/**/', '/sys/fs/cgroup/*/berth/**/']).map((dir) => dir.replace(/\/$/, ''))
    .filter((dir) => !dir.endsWith('/berth'))
}

/** Whether a process was started by this run: it names the run's directory, or inherited it. */
function isOfRun (pid: number, tempDir: string): boolean {
  return read(`/proc/${pid}/cmdline`).includes(tempDir) || read(`/proc/${pid}/environ`).split('\0').includes(`TMPDIR=${tempDir}`)
}

/** Whether a control group belongs to another daemon on the same host. An empty one may, while any other daemon or test runs. */
function isOthers (dir: string, tempDir: string): boolean {
  const members = globSync([`${dir}/cgroup.procs`, `${dir}/**/cgroup.procs`]).flatMap((file) => read(file).split('\n')).filter((pid) => pid !== '')
  if (members.length > 0) return !members.some((pid) => isOfRun(Number(pid), tempDir))
  return hasOthers(tempDir)
}

/** Whether another daemon, test or benchmark is running, whose things look like ours. */
function hasOthers (tempDir: string): boolean {
  return processes().some(({ pid, cmdline }) => /main\.(ts|js) serve|\.test\.ts|bench\/|kill-loop/.test(cmdline) && !isOfRun(pid, tempDir))
}

/** Network namespaces; in the machine's own one links, tables of the packet filter and addresses of daemons, as network-plan.ts names them. */
function networkParts (): string[] {
  const tables = output('nft', ['list', 'tables']).match(/\bberth_\w+/g) ?? []
  const labels = output('ip', ['-o', '-4', 'address', 'show', 'dev', 'lo']).match(/\blo:[0-9a-f]{6}\b/g) ?? []
  return [
    ...namesIn('/run/netns').map((name) => `network namespace: ${name}`),
    ...namesIn('/sys/class/net').filter((name) => /^bv[0-9a-f]{10}$/.test(name)).map((name) => `link: ${name}`),
    ...tables.map((name) => `table of the packet filter: ${name}`),
    ...labels.map((label) => `address of ${label}`),
  ]
}

function namesIn (dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir) : []
}

/** Empty where the program is missing: then nobody has made anything with it. */
function output (program: string, args: string[]): string {
  try {
    return execFileSync(program, args, { encoding: 'utf8' })
  } catch {
    return ''
  }
}

function processes (): { pid: number, cmdline: string }[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => ({ pid: Number(pid), cmdline: read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() }))
}

/** Empty when the file is gone, as a process that has just ended is. */
function read (path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
