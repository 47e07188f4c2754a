/** Sandboxes of a fleet as they are at the moment: asked of their hosts, many at once. */
import type { FleetSandboxPage } from '../../schemas/fleet-sandbox.ts'
import type { Sandbox, SandboxStatus } from '../../schemas/sandbox.ts'
import { BerthError } from '../../errors.ts'
import { askWorker } from '../proxy/worker-calls.ts'
import type { WorkerLinks } from '../proxy/worker-links.ts'
import { readHostSandbox } from './host-sandbox.ts'
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
/** A sandbox is a few kilobytes, of which most is its labels and environment. */
const maxBytesOfOne = 4 * 1024 ** 2
/** All that is held of one list. */
const maxBytes = 64 * 1024 ** 2
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
    const asking = { untilMs: Date.now() + this.#options.answerMs, bytesLeft: maxBytes }
    const found = new Map<string, Sandbox>()
    const unreachable = new Set<string>()
    const byWorker = Map.groupBy(items, ({ workerId }) => workerId)
    await Promise.all([...byWorker].map(async ([workerId, placed]) => {
      const waiting = placed.values()
      const lane = async () => {
        for (const one of waiting) {
          if (unreachable.has(workerId)) return
          await this.#ask(one, asking).then(sandbox => { if (sandbox) found.set(one.id, sandbox) }, () => unreachable.add(workerId))
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
  async #ask ({ id, workerId }: PlacedSandbox, asking: { readonly untilMs: number, bytesLeft: number }): Promise<Sandbox | undefined> {
    const { links, index } = this.#options
    const link = await links.open(workerId).catch(async (error: unknown) => {
      if (error instanceof BerthError && error.code === 'worker_not_found') await index.fade(id)
      throw error
    })
    const { status, text } = await askWorker(link, { method: 'GET', target: `/v1/sandboxes/${id}`, timeoutMs: Math.max(1, asking.untilMs - Date.now()), maxBytes: maxBytesOfOne })
    asking.bytesLeft -= text.length
    const sandbox = status === 200 && asking.bytesLeft > 0 ? readHostSandbox(text) : undefined
    if (sandbox?.id === id) return sandbox
    if (status === 401) links.doubt(workerId)
    if (status !== 404) throw new Error(`worker ${workerId} answered ${status}`)
    await index.drop(id)
    return undefined
  }
}
