/** Sandboxes that do nothing but take their time, and outlive the process that made them: what they are stands in a file. */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import type { SandboxEnd } from '../../src/schemas/sandbox.ts'
import type { SandboxLifecycle } from '../../src/services/sandboxes/sandbox-lifecycle.ts'
import type { TaskRunParts } from '../../src/services/tasks/task-run.ts'

interface Kept {
  id: string
  task: { id: string, fence: number, logCursor: string }
  startedAt: string
  /** Milliseconds since the epoch. */
  endsAt: number
  exitCode: number
}

/** A line of the file. */
type Line = { made: Kept } | { stopped: { id: string, end: SandboxEnd } } | { removed: string }

class FakeSandbox {
  readonly record: { id: string, task: Kept['task'], timings: never[], startedAt: string, end?: SandboxEnd, resources: { cpuMillis: number, memoryBytes: number } }
  readonly #watchers = new Set<() => void>()
  readonly #stop: (id: string, end: SandboxEnd) => void
  readonly #timer: NodeJS.Timeout | undefined

  constructor ({ id, task, startedAt, endsAt, exitCode }: Kept, stop: (id: string, end: SandboxEnd) => void, end?: SandboxEnd) {
    this.record = { id, task, timings: [], startedAt, resources: { cpuMillis: 0, memoryBytes: 0 }, ...end && { end } }
    this.#stop = stop
    if (!end) this.#timer = setTimeout(() => this.#end({ reason: 'exited', exitCode, at: new Date(endsAt).toISOString() }), Math.max(0, endsAt - Date.now()))
  }

  get status (): string { return this.record.end ? 'stopped' : 'running' }
  get hasEnded (): boolean { return this.record.end !== undefined }

  watch (listener: () => void): () => void {
    this.#watchers.add(listener)
    return () => this.#watchers.delete(listener)
  }

  async stop ({ reason }: { reason: SandboxEnd['reason'] }): Promise<void> {
    if (this.hasEnded) return
    const end: SandboxEnd = { reason, exitCode: 143, at: new Date().toISOString() }
    this.#stop(this.record.id, end)
    this.#end(end)
  }

  #end (end: SandboxEnd): void {
    if (this.hasEnded) return
    clearTimeout(this.#timer)
    this.record.end = end
    for (const watcher of [...this.#watchers]) watcher()
  }
}

/** How long a task of the fake runtime takes, and its exit code: its entrypoint is `['fake', MS, CODE]`. */
export function fakeEntrypoint (durationMs: number, exitCode: number): string[] {
  return ['fake', String(durationMs), String(exitCode)]
}

/** In the place of the SandboxManager, for as much of it as tasks need. */
export class FakeSandboxes {
  readonly #path: string
  readonly #all = new Map<string, FakeSandbox>()
  #count = 0

  constructor (path: string) {
    this.#path = path
    const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1).map(line => JSON.parse(line) as Line) : []
    const made = new Map<string, { kept: Kept, end?: SandboxEnd }>()
    for (const line of lines) {
      if ('made' in line) made.set(line.made.id, { kept: line.made })
      else if ('removed' in line) made.delete(line.removed)
      else made.get(line.stopped.id)!.end = line.stopped.end
    }
    this.#count = lines.length
    for (const { kept, end } of made.values()) this.#keep(kept, end)
  }

  get running (): number {
    return [...this.#all.values()].filter(({ hasEnded }) => !hasEnded).length
  }

  readonly parts = {
    all: () => [...this.#all.values()],
    createForTask: async ({ entrypoint = [] }: { entrypoint?: string[] }, task: Kept['task']) => {
      const [, ms, code] = entrypoint
      const now = Date.now()
      const kept: Kept = { id: `sbx_${String(++this.#count).padStart(20, '0')}`, task, startedAt: new Date(now).toISOString(), endsAt: now + Number(ms), exitCode: Number(code) }
      this.#write({ made: kept })
      return this.#keep(kept)
    },
    ofTask: (id: string, fence: number) => [...this.#all.values()].find(({ record: { task } }) => task.id === id && task.fence === fence),
    removeOfTask: async (id: string) => {
      await this.#all.get(id)?.stop({ reason: 'requested' })
      this.#write({ removed: id })
      this.#all.delete(id)
    },
  } as unknown as TaskRunParts['sandboxes'] & { all: () => SandboxLifecycle[] }

  #keep (kept: Kept, end?: SandboxEnd): FakeSandbox {
    const sandbox = new FakeSandbox(kept, (id, end) => this.#write({ stopped: { id, end } }), end)
    this.#all.set(kept.id, sandbox)
    return sandbox
  }

  #write (line: Line): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`)
  }
}
