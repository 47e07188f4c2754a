import { errorFromFacts } from '../../../lib/error-facts.ts'
import { JsonClient, ServerGoneError } from '../../../lib/json-client.ts'
import type { LayerProgress } from '../layers/image-layer.ts'
import type { BootRequest, PreparedLayer, PrepareAnswer, PrepareRequest, ServerEvent, ServerStatus, ServerSettings } from './control-protocol.ts'

const name = 'image server'

/** The daemon's end of the control socket of one image server. Every call may throw ServerGoneError. */
export class ImageServerClient {
  readonly #client: JsonClient

  constructor (options: { socketPath: string }) {
    this.#client = new JsonClient({ ...options, name })
  }

  async status (): Promise<ServerStatus> {
    return await this.#client.call('GET', '/status') as ServerStatus
  }

  async setSettings (settings: ServerSettings): Promise<void> {
    await this.#client.call('PUT', '/settings', settings)
  }

  async layers (): Promise<LayerProgress[]> {
    return await this.#client.call('GET', '/layers') as LayerProgress[]
  }

  async forget (digests: readonly string[]): Promise<void> {
    await this.#client.call('POST', '/forget', { digests })
  }

  async boot (request: BootRequest): Promise<void> {
    await this.#client.call('POST', '/boots', request)
  }

  /** Has a layer made ready. An abort ends this wait alone: the server goes on. @throws BerthError as the server found it. */
  async prepare (request: PrepareRequest, options: { signal?: AbortSignal, onProgress?: (progress: LayerProgress) => void }): Promise<PreparedLayer> {
    for await (const answer of this.#client.lines<PrepareAnswer>('POST', '/layers', request, options.signal)) {
      if ('prepared' in answer) return answer.prepared
      if ('error' in answer) throw errorFromFacts(answer.error)
      options.onProgress?.(answer.progress)
    }
    throw new ServerGoneError(name)
  }

  /** What happens to layers from now on, with what happened since `after` first; without an end of its own. */
  events (after: number, signal: AbortSignal): AsyncIterable<ServerEvent> {
    return this.#client.lines<ServerEvent>('GET', `/events?after=${after}`, undefined, signal)
  }

  async close (): Promise<void> {
    await this.#client.close()
  }
}
