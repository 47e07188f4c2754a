/** What a process uses, by /proc (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html). */
import { readFileSync } from 'node:fs'
import type { Teardown } from '../support/test-daemon.ts'

export interface ProcessFigures {
  /** The most that was resident. */
  peakBytes: number
  cpuSeconds: number
}

const lookEveryMs = 250
/** USER_HZ, on every architecture of Linux that Node runs on. */
const ticksPerSecond = 100

/** From when it is made until it is stopped. */
export class ProcessWatch {
  readonly #pid: number
  readonly #timer: NodeJS.Timeout
  readonly #cpuBefore: number
  #peakBytes = 0

  constructor (t: Teardown, pid: number) {
    this.#pid = pid
    this.#cpuBefore = cpuSeconds(pid)
    this.#timer = setInterval(() => { this.#look() }, lookEveryMs)
    t.after(async () => { clearInterval(this.#timer) })
  }

  stop (): ProcessFigures {
    clearInterval(this.#timer)
    this.#look()
    return { peakBytes: this.#peakBytes, cpuSeconds: cpuSeconds(this.#pid) - this.#cpuBefore }
  }

  #look (): void {
    try {
      this.#peakBytes = Math.max(this.#peakBytes, Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${this.#pid}/status`, 'utf8'))?.[1] ?? 0) * 1024)
    } catch {
      // It has ended: what used it fails by itself.
    }
  }
}

function cpuSeconds (pid: number): number {
  // The name, in brackets, may hold spaces.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}
