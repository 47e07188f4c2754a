/** Sandboxes of a fleet as they are at the moment: asked of their hosts, many at once. */
import type { FleetSandboxPage } from '../../schemas/fleet-sandbox.ts'
import type { Sandbox, SandboxStatus } from '../../schemas/sandbox.ts'
import { BerthError } from '../../errors.ts'
import { askWorker } from '../proxy/worker-calls.ts'
import type { WorkerLinks } from '../proxy/worker-links.ts'
import type { PlacedSandbox, SandboxIndex } from './sandbox-index.ts'

export interface SandboxLookupOptions {
  index: SandboxIndex
  links: WorkerLinks
  /** Hosts have so long, all together, in milliseconds. */
  answerMs?: number
}

export interface FleetSandboxFilter {
  pools?: readonly string[] | undefined
  status?: readonly SandboxStatus[] | undefined
  labels?: Readonly<Record<string, string>> | undefined
  limit: number
  cursor?: string | undefined
}

const defaultAnswerMs = 2000
/** To one host, at a time. */
const perWorker = 4

export class SandboxLookup {
  readonly #options: Required<SandboxLookupOptions>

  constructor (options: SandboxLookupOptions) {
    this.#options = { answerMs: defaultAnswerMs, ...options }
  }

  /** A page of what is known, newest first, without what does not pass the filter and what its host does not tell in time. */
  async list ({ status, labels = {}, ...wanted }: FleetSandboxFilter): Promise<FleetSandboxPage> {
    const { items, nextCursor } = await this.#options.index.page(wanted)
    const untilMs = Date.now() + this.#options.answerMs
    const found = new Map<string, Sandbox>()
    const unreachable = new Set<string>()
    const byWorker = Map.groupBy(items, ({ workerId }) => workerId)
    await Promise.all([...byWorker].map(async ([workerId, placed]) => {
      const waiting = placed.values()
      const lane = async () => {
        for (const one of waiting) {
          if (unreachable.has(workerId)) return
          await this.#ask(one, untilMs).then(sandbox => { if (sandbox) found.set(one.id, sandbox) }, () => unreachable.add(workerId))
        }
      }
      await Promise.all(Array.from({ length: Math.min(perWorker, placed.length) }, lane))
    }))
    const isWanted = (sandbox: Sandbox) => (status === undefined || status.includes(sandbox.status)) &&
      Object.entries(labels).every(([name, value]) => Object.hasOwn(sandbox.labels, name) && sandbox.labels[name] === value)
    const known = items.flatMap(({ id, workerId }) => unreachable.has(workerId) ? [] : found.get(id) ?? [])
    return { items: known.filter(isWanted), unreachable: [...unreachable].sort(), ...(nextCursor === undefined ? {} : { nextCursor }) }
  }

  /** Undefined where its host has no such sandbox any more. */
  async #ask ({ id, workerId }: PlacedSandbox, untilMs: number): Promise<Sandbox | undefined> {
    const { links, index } = this.#options
    const link = await links.open(workerId).catch(async (error: unknown) => {
      if (error instanceof BerthError && error.code === 'worker_not_found') await index.fade(id)
      throw error
    })
    const { status, text } = await askWorker(link, { method: 'GET', target: `/v1/sandboxes/${id}`, timeoutMs: Math.max(1, untilMs - Date.now()) })
    if (status === 200) return JSON.parse(text) as Sandbox
    if (status === 401) links.doubt(workerId)
    if (status !== 404) throw new Error(`worker ${workerId} answered ${status}`)
    await index.drop(id)
    return undefined
  }
}
