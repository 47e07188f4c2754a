/** How much room this host has for tasks: what is requested against what there is, and what the kernel says of memory and disk. */
import { readFile, statfs } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import type { QueueStatus } from '../../schemas/task.ts'
import type { Room } from './task-queue.ts'

export interface HostRoomOptions {
  /** Processors are shared: tasks may request so many times what there is. Memory is never promised twice. */
  cpuOvercommit: number
  /** Memory that is left to everything else on this host, in bytes. */
  reservedMemoryBytes: number
  stateDir: string
  /** What each sandbox needs beside what is requested for it, in bytes: the runtime's own memory. */
  overheadBytes: number
  /** Limits of the sandboxes that run for no task. */
  others: () => ReadonlyArray<Room>
  /** Other figures serve tests. */
  readKernel?: () => Promise<KernelFigures>
}

export interface KernelFigures {
  /** MemAvailable, in bytes. */
  availableMemoryBytes: number
  /** Share of the last ten seconds in which something waited for memory, in percent; undefined where the kernel does not say. */
  memoryPressurePercent: number | undefined
  freeDiskBytes: number
}

export type HeldBack = NonNullable<QueueStatus['heldBack']>

/** Above this, more work makes the host reclaim memory in the place of doing work. */
const maxPressurePercent = 10
const minFreeDiskBytes = 512 * 1024 ** 2

export class HostRoom {
  readonly capacity: Readonly<Room>
  readonly #options: HostRoomOptions

  constructor (options: HostRoomOptions) {
    this.#options = options
    this.capacity = Object.freeze({
      cpuMillis: Math.round(availableParallelism() * 1000 * options.cpuOvercommit),
      memoryBytes: Math.max(0, totalmem() - options.reservedMemoryBytes),
    })
  }

  /** The most that one task may request. */
  get largest (): Room {
    return { cpuMillis: this.capacity.cpuMillis, memoryBytes: Math.max(0, this.capacity.memoryBytes - this.#options.overheadBytes) }
  }

  /** What one more task may request, beside those that hold room already. */
  free (held: readonly Room[]): Room {
    const { overheadBytes, others } = this.#options
    let { cpuMillis, memoryBytes } = this.capacity
    for (const taken of [...held, ...others()]) {
      cpuMillis -= taken.cpuMillis
      memoryBytes -= taken.memoryBytes + overheadBytes
    }
    return { cpuMillis: Math.max(0, cpuMillis), memoryBytes: Math.max(0, memoryBytes - overheadBytes) }
  }

  /** Why nothing more is to be begun whatever was requested, if so: programs may use more than they requested. */
  async heldBack (): Promise<HeldBack | undefined> {
    const { readKernel = () => readKernelFigures(this.#options.stateDir), reservedMemoryBytes } = this.#options
    const { availableMemoryBytes, memoryPressurePercent = 0, freeDiskBytes } = await readKernel()
    if (memoryPressurePercent > maxPressurePercent) return 'memory_pressure'
    if (availableMemoryBytes < reservedMemoryBytes / 2) return 'memory_low'
    if (freeDiskBytes < minFreeDiskBytes) return 'disk_low'
    return undefined
  }
}

/** Memory that is left to the host where nothing else is set: a tenth, and 512 MiB at least. */
export function defaultReservedMemoryBytes (): number {
  return Math.max(512 * 1024 ** 2, Math.round(totalmem() / 10))
}

/** proc_meminfo(5), and Pressure Stall Information as in the kernel's Documentation/accounting/psi.rst. */
async function readKernelFigures (stateDir: string): Promise<KernelFigures> {
  const [memory, pressure, disk] = await Promise.all([
    readFile('/proc/meminfo', 'latin1'),
    readFile('/proc/pressure/memory', 'latin1').catch(() => ''),
    statfs(stateDir),
  ])
  const some = /^some avg10=([\d.]+)/m.exec(pressure)?.[1]
  return {
    availableMemoryBytes: Number(/^MemAvailable:\s+(\d+) kB$/m.exec(memory)?.[1] ?? Infinity) * 1024,
    memoryPressurePercent: some === undefined ? undefined : Number(some),
    freeDiskBytes: disk.bavail * disk.bsize,
  }
}
