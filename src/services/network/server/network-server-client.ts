import { JsonClient } from '../../../lib/json-client.ts'
import type { NetworkServerEvent, NetworkServerStatus, OpenAnswer, PolicyFailure, ServerPolicy } from './network-protocol.ts'

// Far above any event; the server reads what hostile sandboxes send, and may have been taken over by one.
const maxLineBytes = 64 * 1024

/** The daemon's end of the control socket of one network server. Every call may throw ServerGoneError, or BerthError as the server found it. */
export class NetworkServerClient {
  readonly #client: JsonClient

  constructor (options: { socketPath: string }) {
    this.#client = new JsonClient({ ...options, name: 'network server', maxLineBytes })
  }

  async status (): Promise<NetworkServerStatus> {
    return await this.#client.call('GET', '/status') as NetworkServerStatus
  }

  /** Answers which could not be put in force whole; the others are. */
  async setPolicies (policies: readonly ServerPolicy[]): Promise<PolicyFailure[]> {
    return await this.#client.call('PUT', '/policies', policies) as PolicyFailure[]
  }

  async setPolicy (policy: ServerPolicy): Promise<void> {
    await this.#client.call('PUT', `/policies/${encodeURIComponent(policy.sandboxId)}`, policy)
  }

  async removePolicy (sandboxId: string): Promise<void> {
    await this.#client.call('DELETE', `/policies/${encodeURIComponent(sandboxId)}`)
  }

  async answerOpen (answer: OpenAnswer): Promise<void> {
    await this.#client.call('POST', '/opened', answer)
  }

  /** What happened since `after`, then what happens, until the server ends. From `onAnswer` on it does not end before all is read. */
  events (after: number, signal: AbortSignal, onAnswer?: () => void): AsyncIterable<NetworkServerEvent> {
    return this.#client.lines<NetworkServerEvent>('GET', `/events?after=${after}`, undefined, signal, onAnswer)
  }

  async close (): Promise<void> {
    await this.#client.close()
  }
}
