import type { NetworkDecision } from '../../../schemas/network.ts'
import type { Decision } from './network-protocol.ts'

export interface DecisionRecorderOptions {
  /** Takes what has been merged. */
  emit: (decision: Omit<NetworkDecision, 'seq'>) => void
}

interface SandboxDecisions {
  merged: Map<string, Omit<NetworkDecision, 'seq'>>
  suppressed: Omit<NetworkDecision, 'seq'> | undefined
}

const mergeMs = 1000
const maxDistinct = 50

/**
 * Decisions on their way to the daemon: what is alike within a second becomes one, with a count and the time of the first. Of one sandbox
 * at most 50 different ones a second are told apart; the rest is one `suppressed`, with their number.
 */
export class DecisionRecorder {
  readonly #options: DecisionRecorderOptions
  readonly #bySandbox = new Map<string, SandboxDecisions>()
  #timer: NodeJS.Timeout | undefined

  constructor (options: DecisionRecorderOptions) {
    this.#options = options
  }

  record (decision: Decision): void {
    const { sandboxId } = decision
    let decisions = this.#bySandbox.get(sandboxId)
    if (!decisions) this.#bySandbox.set(sandboxId, decisions = { merged: new Map(), suppressed: undefined })
    const key = keyOf(decision)
    const same = decisions.merged.get(key) ?? (decisions.merged.size >= maxDistinct ? decisions.suppressed : undefined)
    if (same) {
      same.count++
      return
    }
    const first = { ...decision, at: new Date().toISOString(), count: 1 }
    if (decisions.merged.size < maxDistinct) decisions.merged.set(key, first)
    else decisions.suppressed = { sandboxId, kind: first.kind, action: first.action, reason: 'suppressed', at: first.at, count: 1 }
    this.#timer ??= setTimeout(() => this.flush(), mergeMs).unref()
  }

  /** Emits what has been merged so far. */
  flush (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const bySandbox = [...this.#bySandbox.values()]
    this.#bySandbox.clear()
    for (const { merged, suppressed } of bySandbox) {
      for (const decision of merged.values()) this.#options.emit(decision)
      if (suppressed) this.#options.emit(suppressed)
    }
  }
}

function keyOf ({ kind, action, reason, name, entry, protocol, address, port }: Decision): string {
  return JSON.stringify([kind, action, reason, name, entry, protocol, address, port])
}
