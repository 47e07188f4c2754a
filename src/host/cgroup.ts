/**
 * One control group per sandbox, made and removed by us, so that limits, kill-all, memory accounting and the
 * reason of an out-of-memory end do not depend on the OCI runtime. Versions 1, 2 and hybrid
 * (kernel Documentation: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst).
 */
import { constants } from 'node:fs'
import { access, mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { join } from 'node:path'
import { BerthError } from '../errors.ts'
import { pollUntil } from '../lib/poll.ts'
import { killProcess } from './process.ts'

export interface CgroupLimits {
  cpuMillis: number
  memoryBytes: number
  pids: number
}

export interface CgroupUsage {
  memoryBytes: number
  peakMemoryBytes: number
  /** How many processes the kernel killed in this group for want of memory. */
  oomKills: number
  pids: number
  /** Processor time of all cores together since the group was made. */
  cpuTimeMs: number
}

const cpuPeriodUs = 100_000
const controllers = ['memory', 'cpu', 'cpuacct', 'pids'] as const
type Controller = typeof controllers[number]

/** Where each controller is mounted. In version 2 all are the same place. */
export interface CgroupLayout {
  version: 1 | 2
  mounts: ReadonlyMap<Controller, string>
  /** The other hierarchies of version 1 (freezer, devices …): runc makes groups there by the same name. */
  others: readonly string[]
}

/** Reads /proc/self/mountinfo: version 1 wherever the controllers are there, else version 2. */
export function parseCgroupLayout (mountinfo: string): CgroupLayout | undefined {
  const mounts = new Map<Controller, string>()
  const others: string[] = []
  let unified: string | undefined
  for (const line of mountinfo.split('\n')) {
    const [before, after] = line.split(' - ')
    const point = before?.split(' ')[4]
    const [type, , superOptions] = after?.split(' ') ?? []
    if (!point) continue
    if (type === 'cgroup2') unified = point
    if (type !== 'cgroup') continue
    others.push(point)
    const options = superOptions?.split(',') ?? []
    for (const controller of controllers) {
      if (options.includes(controller)) mounts.set(controller, point)
    }
  }
  if (mounts.has('memory') && mounts.has('cpu') && mounts.has('pids')) {
    const ours = [...mounts.values()]
    return { version: 1, mounts, others: [...others, ...(unified ? [unified] : [])].filter(point => !ours.includes(point)) }
  }
  if (unified) return { version: 2, mounts: new Map([['memory', unified]]), others: [] }
  return undefined
}

/** The control groups below one parent, by sandbox id. */
export class CgroupManager {
  readonly version: 1 | 2
  /** Below each mount, beginning with a slash: `/berth/<instance>`. */
  readonly parent: string
  readonly #layout: CgroupLayout
  readonly #roots: string[]

  constructor (options: { layout: CgroupLayout, parent: string }) {
    this.#layout = options.layout
    this.version = options.layout.version
    this.parent = options.parent
    this.#roots = [...new Set(options.layout.mounts.values())]
  }

  static async detect (parent: string): Promise<CgroupManager> {
    const layout = parseCgroupLayout(await readFile('/proc/self/mountinfo', 'utf8'))
    if (!layout) throw new BerthError('unavailable', 'cgroups_missing', 'no cgroup hierarchy with the controllers memory, cpu and pids is mounted; run: berth doctor')
    return new CgroupManager({ layout, parent })
  }

  /** Makes the parent and, in version 2, hands the controllers down to it. */
  async open (): Promise<void> {
    for (const root of this.#roots) {
      let path = root
      for (const part of ['', ...this.parent.split('/').filter(Boolean)]) {
        path = join(path, part)
        await mkdir(path, { recursive: true })
        if (this.version === 2) await writeFile(join(path, 'cgroup.subtree_control'), '+memory +cpu +pids')
      }
    }
  }

  /** The group's path as OCI's linux.cgroupsPath wants it. */
  ociPath (id: string): string {
    return `${this.parent}/${id}`
  }

  /** Makes the group with its limits in force. Refuses one that exists: its name would not be ours alone. */
  async create (id: string, limits: CgroupLimits): Promise<void> {
    for (const dir of this.#dirs(id)) await mkdir(dir)
    await Promise.all(this.#limitFiles(id, limits).map(async ({ file, value, isOptional }) => {
      try {
        await writeFile(file, value)
      } catch (error) {
        // Swap limits exist only where the kernel accounts swap.
        if (!(isOptional && isMissing(error))) throw error
      }
    }))
  }

  /** The files to write a pid to in order to enter the group. */
  procsFiles (id: string): string[] {
    return this.#dirs(id).map(dir => join(dir, 'cgroup.procs'))
  }

  async exists (id: string): Promise<boolean> {
    const found = await Promise.all(this.#dirs(id).map(dir => access(dir, constants.F_OK).then(() => true, () => false)))
    return found.includes(true)
  }

  /** Usage, or undefined when the group is gone. */
  async usage (id: string): Promise<CgroupUsage | undefined> {
    const memory = this.#dir('memory', id)
    const files = this.version === 1
      ? { now: 'memory.usage_in_bytes', peak: 'memory.max_usage_in_bytes', events: 'memory.oom_control', cpu: 'cpuacct.usage' }
      : { now: 'memory.current', peak: 'memory.peak', events: 'memory.events', cpu: 'cpu.stat' }
    try {
      const [now, peak, events, pids, cpu] = await Promise.all([
        readFile(join(memory, files.now), 'latin1'),
        readFile(join(memory, files.peak), 'latin1').catch(() => '0'),
        readFile(join(memory, files.events), 'latin1'),
        readFile(join(this.#dir('pids', id), 'pids.current'), 'latin1'),
        readFile(join(this.#dir('cpuacct', id), files.cpu), 'latin1').catch(() => '0'),
      ])
      return {
        memoryBytes: Number(now),
        peakMemoryBytes: Number(peak),
        oomKills: Number(/^oom_kill (\d+)$/m.exec(events)?.[1] ?? 0),
        pids: Number(pids),
        // Version 1 counts nanoseconds, version 2 microseconds.
        cpuTimeMs: this.version === 1 ? Number(cpu) / 1e6 : Number(/^usage_usec (\d+)$/m.exec(cpu)?.[1] ?? 0) / 1000,
      }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }

  /** Host pids of the processes in the group, in every hierarchy. */
  async processes (id: string): Promise<number[]> {
    const lists = await Promise.all(this.procsFiles(id).map(file => readFile(file, 'latin1').catch(() => '')))
    return [...new Set(lists.flatMap(list => list.split('\n').filter(Boolean).map(Number)))]
  }

  /**
   * SIGKILLs whatever is in the group, again until a look finds it empty. The process named as `last` is left until the
   * others are gone: its monitor, which waits for it alone, then reaps them too.
   */
  async killAll (id: string, last?: number): Promise<void> {
    if (last !== undefined) {
      const others = async () => (await this.processes(id)).filter(pid => pid !== last)
      for (const pid of await others()) killProcess(pid)
      await this.#thaw(id)
      await pollUntil(async () => (await others()).length === 0, othersEndMs)
    }
    for (let round = 0; round < maxKillRounds; round++) {
      const pids = await this.processes(id)
      if (pids.length === 0) return
      if (this.version === 2) await writeFile(join(this.#dir('memory', id), 'cgroup.kill'), '1').catch(() => {})
      for (const pid of pids) killProcess(pid)
      await this.#thaw(id)
      await delay(Math.min(2 ** round, 50))
    }
    throw new Error('processes are left in a cgroup after SIGKILL')
  }

  /**
   * Has processes that stand still take what they were sent. runc pauses by the freezer, and in version 1 not even SIGKILL ends
   * what is frozen there (freezer-subsystem.rst); version 2 ends it.
   */
  async #thaw (id: string): Promise<void> {
    if (this.version === 2) return
    const files = this.#layout.others.map(mount => join(mount, this.parent, id, 'freezer.state'))
    // No file is made: only one of these hierarchies is the freezer's, and the group is there only where runc made it.
    await Promise.all(files.map(file => writeFile(file, 'THAWED', { flag: 'r+' }).catch(() => {})))
  }

  /** Removes the group with what is in it; one that is gone is fine. */
  async remove (id: string): Promise<void> {
    if (!await this.exists(id)) return
    await this.killAll(id)
    for (const dir of this.#dirs(id)) await this.#removeDir(dir)
  }

  /** Ids of the groups below the parent. */
  async list (): Promise<string[]> {
    const names = await Promise.all(this.#roots.map(root => childGroups(join(root, this.parent))))
    return [...new Set(names.flat())]
  }

  /** Removes the parent when it is empty, and its own parents where nobody else's groups are in them. */
  async close (): Promise<void> {
    for (const root of [...this.#roots, ...this.#layout.others]) {
      const parts = this.parent.split('/').filter(Boolean)
      for (; parts.length > 0; parts.pop()) {
        try { await rmdir(join(root, ...parts)) } catch { break }
      }
    }
  }

  async #removeDir (dir: string): Promise<void> {
    // The OCI runtime may have made groups below (runc on some hosts); a dying process keeps a group busy for a moment.
    for (const child of await childGroups(dir)) await this.#removeDir(join(dir, child))
    for (let round = 0; ; round++) {
      try {
        return await rmdir(dir)
      } catch (error) {
        if (isMissing(error)) return
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || round >= maxKillRounds) throw error
        await delay(Math.min(2 ** round, 50))
      }
    }
  }

  #dir (controller: Controller, id: string): string {
    const root = this.#layout.mounts.get(controller) ?? this.#layout.mounts.get('memory') ?? ''
    return join(root, this.parent, id)
  }

  #dirs (id: string): string[] {
    return this.#roots.map(root => join(root, this.parent, id))
  }

  #limitFiles (id: string, limits: CgroupLimits): Array<{ file: string, value: string, isOptional?: boolean }> {
    const quotaUs = Math.max(1000, Math.round(limits.cpuMillis * cpuPeriodUs / 1000))
    const memory = this.#dir('memory', id)
    const cpu = this.#dir('cpu', id)
    const pids = { file: join(this.#dir('pids', id), 'pids.max'), value: String(limits.pids) }
    if (this.version === 2) {
      return [
        { file: join(memory, 'memory.max'), value: String(limits.memoryBytes) },
        { file: join(memory, 'memory.swap.max'), value: '0', isOptional: true },
        { file: join(memory, 'memory.oom.group'), value: '1', isOptional: true },
        { file: join(cpu, 'cpu.max'), value: `${quotaUs} ${cpuPeriodUs}` },
        pids,
      ]
    }
    return [
      { file: join(memory, 'memory.limit_in_bytes'), value: String(limits.memoryBytes) },
      { file: join(memory, 'memory.swappiness'), value: '0', isOptional: true },
      { file: join(cpu, 'cpu.cfs_period_us'), value: String(cpuPeriodUs) },
      { file: join(cpu, 'cpu.cfs_quota_us'), value: String(quotaUs) },
      pids,
    ]
  }
}

/** A sandbox that forks faster than it is killed is not waited for: then all die at once. */
const othersEndMs = 50

/** Rounds of 1, 2, 4 … 50 ms: about two seconds in all. */
const maxKillRounds = 45

async function childGroups (dir: string): Promise<string[]> {
  try {
    const entries = await readdir(dir, { withFileTypes: true })
    return entries.filter(entry => entry.isDirectory()).map(entry => entry.name)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

function isMissing (error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code
  return code === 'ENOENT' || code === 'ENODEV'
}
