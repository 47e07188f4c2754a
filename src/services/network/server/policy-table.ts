import { SocketAddress } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import type { ServerPolicy } from './network-protocol.ts'

/** The sandboxes that the server knows: by id, by the address that their packets come from, by the device that they come through. */
export class PolicyTable {
  readonly #byId = new Map<string, ServerPolicy>()
  readonly #bySource = new Map<string, ServerPolicy>()
  readonly #byDevice = new Map<string, ServerPolicy>()

  get size (): number { return this.#byId.size }

  /** All policies from here on; what is not among them is forgotten. Answers the ids of those that changed or went. */
  replaceAll (policies: readonly ServerPolicy[]): string[] {
    const before = new Map(this.#byId)
    this.#byId.clear()
    this.#bySource.clear()
    this.#byDevice.clear()
    for (const policy of policies) this.set(policy)
    return [...before].filter(([id, policy]) => !isDeepStrictEqual(this.#byId.get(id), policy)).map(([id]) => id)
  }

  set (policy: ServerPolicy): void {
    this.delete(policy.sandboxId)
    this.#byId.set(policy.sandboxId, policy)
    this.#bySource.set(canonical(policy.ipv4), policy)
    this.#bySource.set(canonical(policy.ipv6), policy)
    this.#byDevice.set(policy.device, policy)
  }

  delete (id: string): void {
    const policy = this.#byId.get(id)
    if (!policy) return
    this.#byId.delete(id)
    // An address or a device may have gone on to another sandbox meanwhile.
    for (const address of [policy.ipv4, policy.ipv6]) if (this.#bySource.get(canonical(address)) === policy) this.#bySource.delete(canonical(address))
    if (this.#byDevice.get(policy.device) === policy) this.#byDevice.delete(policy.device)
  }

  all (): ServerPolicy[] {
    return [...this.#byId.values()]
  }

  byId (id: string): ServerPolicy | undefined {
    return this.#byId.get(id)
  }

  /** Whose address this is, as a socket shows it: `10.200.0.5`, `::ffff:10.200.0.5`, `fd00::5`. */
  bySource (address: string): ServerPolicy | undefined {
    return this.#bySource.get(address.startsWith('::ffff:') && address.includes('.') ? address.slice('::ffff:'.length) : address)
  }

  byDevice (name: string): ServerPolicy | undefined {
    return this.#byDevice.get(name)
  }
}

/** As the kernel writes addresses. */
function canonical (address: string): string {
  return new SocketAddress({ address, family: address.includes(':') ? 'ipv6' : 'ipv4' }).address
}
