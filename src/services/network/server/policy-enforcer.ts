import { Mutex } from 'async-mutex'
import { BerthError } from '../../../errors.ts'
import { errorFacts } from '../../../lib/error-facts.ts'
import type { EgressProxy } from './egress-proxy.ts'
import type { PolicyFailure, ServerPolicy } from './network-protocol.ts'
import type { PolicyTable } from './policy-table.ts'
import type { PortRelays } from './port-relay.ts'

export interface PolicyEnforcerOptions {
  policies: PolicyTable
  relays: Pick<PortRelays, 'set' | 'remove'>
  proxy: Pick<EgressProxy, 'policyChanged' | 'forget'>
  /** Nothing of a sandbox is let in before this. */
  ready: Promise<void>
}

/** Puts policies in force in all parts of the server, one after the other: a call that resolves has cut what it forbids. */
export class PolicyEnforcer {
  readonly #options: PolicyEnforcerOptions
  readonly #mutex = new Mutex()

  constructor (options: PolicyEnforcerOptions) {
    this.#options = options
  }

  /** All policies from here on. One whose published ports cannot be held is in force but for them. */
  async setAll (wanted: readonly ServerPolicy[]): Promise<PolicyFailure[]> {
    return await this.#exclusively(async () => {
      const { policies, relays, proxy } = this.#options
      const gone = new Set(policies.all().map(({ sandboxId }) => sandboxId))
      for (const { sandboxId } of wanted) gone.delete(sandboxId)
      const changed = policies.replaceAll(wanted)
      for (const id of changed) {
        if (gone.has(id)) proxy.forget(id)
        else proxy.policyChanged(id)
      }
      // Their ports first: one of them may be another's now.
      for (const id of gone) await relays.remove(id)
      const failures: PolicyFailure[] = []
      for (const policy of wanted) {
        await this.#hold(policy).catch((error: unknown) => failures.push({ sandboxId: policy.sandboxId, ...errorFacts(error) }))
      }
      return failures
    })
  }

  /** @throws BerthError conflict `port_taken`, and nothing is changed. */
  async set (policy: ServerPolicy): Promise<void> {
    await this.#exclusively(async () => {
      const { policies, proxy } = this.#options
      const before = policies.bySource(policy.ipv4)
      if (before && before.sandboxId !== policy.sandboxId) await this.#remove(before.sandboxId)
      await this.#hold(policy)
      policies.set(policy)
      proxy.policyChanged(policy.sandboxId)
    })
  }

  /** Forgets a sandbox; one that is not known is fine. */
  async remove (sandboxId: string): Promise<void> {
    await this.#exclusively(async () => await this.#remove(sandboxId))
  }

  async #remove (sandboxId: string): Promise<void> {
    const { policies, relays, proxy } = this.#options
    policies.delete(sandboxId)
    proxy.forget(sandboxId)
    await relays.remove(sandboxId)
  }

  async #hold ({ sandboxId, ipv4, ipv6, publish }: ServerPolicy): Promise<void> {
    await this.#options.relays.set(sandboxId, { ipv4, ipv6 }, publish).catch((error: unknown) => { throw asKnown(error) })
  }

  async #exclusively<T> (work: () => Promise<T>): Promise<T> {
    await this.#options.ready
    return await this.#mutex.runExclusive(work)
  }
}

/** Why a port cannot be held, as far as whoever asked for it can do something about it. */
function asKnown (cause: unknown): unknown {
  const { code, port } = cause as { code?: string, port?: number }
  if (port === undefined) return cause
  if (code === 'EADDRINUSE') {
    return new BerthError('conflict', 'port_taken', `port ${port} of the host is taken by another program; publish at another hostPort, or leave it out for a free one`, { cause, details: { hostPort: port } })
  }
  if (code === 'EADDRNOTAVAIL') {
    return new BerthError('unavailable', 'publish_address_missing', 'the host has not the address that ports are published at; see the setting of the publish address', { cause, details: { hostPort: port } })
  }
  return cause
}
