import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import type { Logger } from 'pino'
import { digestOf } from '../digest.ts'
import { isObject } from '../image-config.ts'
import type { RegistryCredentials } from '../layers/image-layer.ts'
import { findBlob, readBlob, type BlobRange } from './blob-reader.ts'
import { discardBody, readBody } from './bounded-body.ts'
import { RegistryConnections } from './registry-connections.ts'
import { RegistryEndpoint } from './registry-endpoint.ts'
import { invalidAnswer, RegistryError, unavailable } from './registry-errors.ts'
import { RetryBudget } from './registry-retry.ts'
import type { RegistrySettings } from './registry-settings.ts'

export interface RegistryClientOptions {
  /** As a RegistryReference has them. */
  registry: string
  repository: string
  settings: RegistrySettings
  /** Credentials of the request: they win over files, and are sent to the registry itself alone, never to mirrors. */
  credentials?: RegistryCredentials | undefined
  logger?: Logger | undefined
  /** What the clients of a process share; without it the client has its own, and closes it. */
  connections?: RegistryConnections
}

export interface FetchedManifest {
  digest: string
  mediaType: string
  body: Buffer
}

interface BlobOptions {
  signal?: AbortSignal
  /** Asks the registry itself alone: for who has found that what came from a mirror is wrong. */
  skipMirrors?: boolean
}

interface BlobName {
  digest: string
  sizeBytes: number
}

const manifestTypes = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.docker.distribution.manifest.v2+json',
]
// What registries must take (distribution-spec), and what real ones stay far below.
const maxManifestBytes = 4 * 1024 ** 2
const smallAnswerMs = 60_000
const triesOfRegistry = 5
// Another place has the same bytes: no use in patience.
const triesOfMirror = 2
const shunMirrorMs = 30_000
const digestPattern = /^sha256:[a-f0-9]{64}$/
// The tags and digests of the distribution-spec: nothing else may get into a URL.
const referencePattern = /^(?:\w[\w.-]{0,127}|sha256:[a-f0-9]{64})$/

/** One repository of a registry and of its mirrors, over the OCI distribution API. Everything it hands out by digest is verified. */
export class RegistryClient {
  readonly #options: RegistryClientOptions
  readonly #connections: RegistryConnections
  readonly #registry: RegistryEndpoint
  readonly #mirrors: readonly RegistryEndpoint[]
  readonly #shunnedUntil = new Map<RegistryEndpoint, number>()
  readonly #closing = new AbortController()

  constructor (options: RegistryClientOptions) {
    const { registry, repository, settings, credentials } = options
    this.#options = options
    // Every request under way listens to it.
    setMaxListeners(0, this.#closing.signal)
    const connections = options.connections ?? new RegistryConnections({ settings, logger: options.logger })
    this.#connections = connections
    // Docker Hub's API has a host of its own.
    const host = registry === 'docker.io' ? 'registry-1.docker.io' : registry
    this.#registry = new RegistryEndpoint({ connections, host, subject: { registry, repository }, isMirror: false, credentials })
    this.#mirrors = (settings.mirrors.get(registry) ?? []).map(mirror => {
      const name = new URL(mirror.includes('://') ? mirror : `https://${mirror}`).host
      return new RegistryEndpoint({ connections, host: mirror, subject: { registry: name, repository }, isMirror: true })
    })
  }

  /**
   * Fetches a manifest or index by tag or digest; the body has the digest.
   *
   * @throws BerthError `image_not_found`, `image_auth_required`, `image_invalid`, `registry_unavailable`; the signal's reason.
   */
  async getManifest (reference: string, options: { signal?: AbortSignal } = {}): Promise<FetchedManifest> {
    const signal = this.#linked(options.signal)
    return this.#fromAny(signal, async endpoint => this.#manifestFrom(endpoint, checkedReference(reference), signal))
  }

  /**
   * Streams a blob, from `offsetBytes` on. Ends without error only if size and, from the beginning, digest are right: what
   * was yielded is not to be trusted before that.
   *
   * @throws BerthError as getManifest.
   */
  async * streamBlob (blob: BlobName, options: BlobOptions & { offsetBytes?: number } = {}): AsyncGenerator<Buffer, void, undefined> {
    const start = options.offsetBytes ?? 0
    const hash = start === 0 ? createHash('sha256') : undefined
    const from = { endpoint: this.#registry }
    const range = { ...checkedBlob(blob), start, endExclusive: blob.sizeBytes }
    for await (const chunk of this.#read(range, { ...options, tries: triesOfRegistry, from })) {
      hash?.update(chunk)
      yield chunk
    }
    if (hash === undefined || `sha256:${hash.digest('hex')}` === blob.digest) return
    // Whoever tries again is not to get the same from the same mirror.
    if (from.endpoint.isMirror) this.#shun(from.endpoint)
    throw invalidAnswer(from.endpoint.subject, `blob ${blob.digest} has another digest than its name says`)
  }

  /**
   * Fetches exactly the bytes from `startByte` up to `endByteExclusive`, which nothing here can verify. With a signal it
   * is the signal that ends retries; without, a few tries are made.
   *
   * @throws BerthError as getManifest.
   */
  async fetchRange (blob: BlobName, startByte: number, endByteExclusive: number, options: BlobOptions = {}): Promise<Buffer> {
    if (startByte < 0 || endByteExclusive > blob.sizeBytes || startByte > endByteExclusive) throw new RangeError('the range lies outside the blob')
    const range = { ...checkedBlob(blob), start: startByte, endExclusive: endByteExclusive }
    const tries = options.signal === undefined ? triesOfRegistry : Infinity
    const chunks: Buffer[] = []
    for await (const chunk of this.#read(range, { ...options, tries })) chunks.push(chunk)
    return chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks, endByteExclusive - startByte)
  }

  /** Whether the registry itself, not a mirror, has the blob. */
  async hasBlob (digest: string, options: { signal?: AbortSignal } = {}): Promise<boolean> {
    if (!digestPattern.test(digest)) throw new RangeError('a digest is sha256 in hexadecimal')
    const signal = this.#linked(options.signal)
    return this.#persist(signal, triesOfRegistry, () => findBlob(this.#registry, digest, signal))
  }

  /** Uploads a small blob in one piece, unless it is there. */
  async pushBlob (content: Buffer, options: { signal?: AbortSignal } = {}): Promise<BlobName> {
    const signal = this.#linked(options.signal)
    const digest = digestOf(content)
    const registry = this.#registry
    await this.#persist(signal, triesOfRegistry, async () => {
      if (await findBlob(registry, digest, signal)) return
      const uploads = 'blobs/uploads/'
      const started = await registry.request({ method: 'POST', path: uploads, action: 'pull,push', what: `repository ${this.#options.repository}`, signal })
      await discardBody(started)
      const target = registry.locationOf(started, await registry.urlOf(uploads))
      target.search += `${target.search === '' ? '' : '&'}digest=${encodeURIComponent(digest)}`
      const headers = { 'content-type': 'application/octet-stream' }
      await discardBody(await registry.request({ method: 'PUT', path: target, action: 'pull,push', headers, body: content, what: 'such upload', signal }))
    })
    return { digest, sizeBytes: content.length }
  }

  /** Puts a manifest under a tag or its digest. Returns its digest. */
  async pushManifest (reference: string, mediaType: string, body: Buffer, options: { signal?: AbortSignal } = {}): Promise<string> {
    const signal = this.#linked(options.signal)
    const path = `manifests/${checkedReference(reference)}`
    const what = `repository ${this.#options.repository}`
    await this.#persist(signal, triesOfRegistry, async () => {
      await discardBody(await this.#registry.request({ method: 'PUT', path, action: 'pull,push', headers: { 'content-type': mediaType }, body, what, signal }))
    })
    return digestOf(body)
  }

  /** Fails what is under way, and ends connections that nobody shares. */
  async close (): Promise<void> {
    this.#closing.abort(unavailable(this.#registry.subject, 'its client was closed', { isTransient: false }))
    if (!this.#options.connections) await this.#connections.close()
  }

  async #manifestFrom (endpoint: RegistryEndpoint, reference: string, signal: AbortSignal): Promise<FetchedManifest> {
    const what = `${this.#options.repository}${digestPattern.test(reference) ? '@' : ':'}${reference}`
    const answer = await endpoint.request({ method: 'GET', path: `manifests/${reference}`, headers: { accept: manifestTypes.join(', ') }, what, signal })
    const { subject } = endpoint
    const body = await readBody(answer, { subject, maxBytes: maxManifestBytes, timeoutMs: smallAnswerMs, signal })
    const digest = digestOf(body)
    const said = digestPattern.test(reference) ? reference : answer.headers['docker-content-digest']
    // A body that was cut off, or changed on its way.
    if (typeof said === 'string' && said.startsWith('sha256:') && said !== digest) throw invalidAnswer(subject, `manifest ${reference} has another digest than ${said.slice(0, 80)}`)
    return { digest, mediaType: mediaTypeOf(answer.headers['content-type'], body), body }
  }

  /** Yields a range from the first endpoint that has it, going on with the next where one gives up. */
  async * #read (range: BlobRange, options: BlobOptions & { tries: number, from?: { endpoint: RegistryEndpoint } }): AsyncGenerator<Buffer, void, undefined> {
    const { stallTimeoutMs } = this.#options.settings
    const { tries, from } = options
    const signal = this.#linked(options.signal)
    let position = range.start
    for (const endpoint of options.skipMirrors === true ? [this.#registry] : this.#endpoints()) {
      if (from) from.endpoint = endpoint
      const maxTries = endpoint.isMirror ? triesOfMirror : tries
      const onProgress = (reached: number) => { position = reached }
      try {
        signal.throwIfAborted()
        yield * readBlob(endpoint, { ...range, start: position }, { signal, maxTries, stallTimeoutMs, onProgress })
        return
      } catch (error) {
        this.#passOver(endpoint, error, signal)
      }
    }
  }

  async #fromAny<T> (signal: AbortSignal, work: (endpoint: RegistryEndpoint) => Promise<T>): Promise<T> {
    for (const endpoint of this.#endpoints()) {
      try {
        return await this.#persist(signal, endpoint.isMirror ? triesOfMirror : triesOfRegistry, () => work(endpoint))
      } catch (error) {
        this.#passOver(endpoint, error, signal)
      }
    }
    throw new Error('the registry itself is always tried')
  }

  async #persist<T> (signal: AbortSignal, maxTries: number, work: () => Promise<T>): Promise<T> {
    const retries = new RetryBudget({ signal, maxTries })
    for (;;) {
      try {
        return await work()
      } catch (error) {
        await retries.wait(error)
      }
    }
  }

  #endpoints (): RegistryEndpoint[] {
    return [...this.#mirrors.filter(mirror => (this.#shunnedUntil.get(mirror) ?? 0) <= Date.now()), this.#registry]
  }

  /** Returns when the next endpoint is to be tried; throws the error when there is none, or nobody waits any more. */
  #passOver (endpoint: RegistryEndpoint, error: unknown, signal: AbortSignal): void {
    signal.throwIfAborted()
    if (!endpoint.isMirror || !(error instanceof RegistryError)) throw error
    if (error.code !== 'image_not_found') this.#shun(endpoint)
    this.#options.logger?.debug({ mirror: endpoint.subject.registry, code: error.code }, 'mirror passed over')
  }

  #shun (endpoint: RegistryEndpoint): void {
    this.#shunnedUntil.set(endpoint, Date.now() + shunMirrorMs)
  }

  #linked (signal: AbortSignal | undefined): AbortSignal {
    return signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal
  }
}

function checkedReference (reference: string): string {
  if (!referencePattern.test(reference)) throw new RangeError('a manifest is named by a tag or a sha256 digest')
  return reference
}

function checkedBlob (blob: BlobName): BlobName {
  if (!digestPattern.test(blob.digest) || !Number.isSafeInteger(blob.sizeBytes) || blob.sizeBytes < 0) throw new RangeError('a blob is named by a sha256 digest and its size')
  return { digest: blob.digest, sizeBytes: blob.sizeBytes }
}

/** What the header says; without one that says anything, what the manifest itself does. */
function mediaTypeOf (header: string | string[] | undefined, body: Buffer): string {
  const type = typeof header === 'string' ? header.split(';')[0]?.trim() ?? '' : ''
  if (type !== '' && !/^(?:application\/json|application\/octet-stream|text\/plain)$/.test(type)) return type
  try {
    const json: unknown = JSON.parse(body.toString('utf8'))
    return isObject(json) && typeof json.mediaType === 'string' ? json.mediaType : type
  } catch {
    return type
  }
}
