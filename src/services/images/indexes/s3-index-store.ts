import { createHash } from 'node:crypto'
import { AwsV4Signer } from 'aws4fetch'
import { discardBody, readBody } from '../registry/bounded-body.ts'
import type { RegistryConnections, WireAnswer } from '../registry/registry-connections.ts'
import type { AwsCredentials } from './aws-credentials.ts'
import type { S3Location } from './index-settings.ts'
import { StoreRefusedError, type RemoteIndexStore, type StoreContext, type StoredBundle } from './remote-index-store.ts'

export interface S3IndexStoreOptions {
  location: S3Location
  /** Asked for each request, because they may change. */
  credentials: () => Promise<AwsCredentials>
  connections: RegistryConnections
}

interface S3Request {
  method: 'GET' | 'PUT'
  name: string
  body?: Buffer
  signal: AbortSignal
}

const maxErrorBytes = 64 * 1024
const errorBodyMs = 5_000

/** Bundles as objects `<prefix>/<name>` of a bucket of any store that speaks S3's REST API with signatures of version 4. */
export class S3IndexStore implements RemoteIndexStore {
  readonly #options: S3IndexStoreOptions
  readonly #place: string

  constructor (options: S3IndexStoreOptions) {
    this.#options = options
    const { bucket, prefix, endpoint } = options.location
    this.#place = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`} at ${endpoint.host}`
  }

  placeOf (): string {
    return this.#place
  }

  async find (name: string, _context: StoreContext, signal: AbortSignal): Promise<StoredBundle | undefined> {
    const answer = await this.#send({ method: 'GET', name, signal })
    if (answer.statusCode === 404) {
      const { code } = await this.#failureOf(answer)
      if (code === 'NoSuchBucket') throw new StoreRefusedError('the store has no such bucket')
      return undefined
    }
    if (answer.statusCode !== 200) throw (await this.#failureOf(answer)).error
    const length = answer.headers['content-length']
    return { sizeBytes: typeof length === 'string' ? Number(length) : 0, body: answer.body as AsyncIterable<Buffer> }
  }

  async put (name: string, content: Buffer, _context: StoreContext, signal: AbortSignal): Promise<void> {
    const answer = await this.#send({ method: 'PUT', name, body: content, signal })
    if (answer.statusCode >= 200 && answer.statusCode < 300) return discardBody(answer)
    throw (await this.#failureOf(answer)).error
  }

  async close (): Promise<void> {
    // The connections are whose they are.
  }

  async #send ({ method, name, body, signal }: S3Request): Promise<WireAnswer> {
    const { location, credentials, connections } = this.#options
    const url = urlOf(location, name)
    const signer = new AwsV4Signer({
      method,
      url: url.href,
      headers: { 'x-amz-content-sha256': createHash('sha256').update(body ?? '').digest('hex'), ...(body ? { 'content-type': 'application/octet-stream' } : {}) },
      ...await credentials(),
      service: 's3',
      region: location.region,
    })
    const signed = await signer.sign()
    const headers = Object.fromEntries(signed.headers.entries())
    // An operator's endpoint may be on this host; where an answer leads is never followed.
    return connections.send({ registry: url.host, repository: location.bucket }, { url, method, headers, mayBeLoopback: true, signal, ...(body ? { body } : {}) })
  }

  async #failureOf (answer: WireAnswer): Promise<{ code: string | undefined, error: Error }> {
    const subject = { registry: this.#options.location.endpoint.host, repository: this.#options.location.bucket }
    const text = await readBody(answer, { subject, maxBytes: maxErrorBytes, timeoutMs: errorBodyMs }).then(body => body.toString('utf8'), () => '')
    // The code alone is safe to log.
    const code = /<Code>([A-Za-z]{1,60})<\/Code>/.exec(text)?.[1]
    const message = `the store answers ${answer.statusCode}${code === undefined ? '' : ` ${code}`}`
    const mayPass = answer.statusCode >= 500 || [408, 409, 425, 429].includes(answer.statusCode)
    return { code, error: mayPass ? new Error(message) : new StoreRefusedError(message) }
  }
}

function urlOf ({ endpoint, bucket, prefix, isPathStyle }: S3Location, name: string): URL {
  const url = new URL(endpoint)
  const key = prefix === '' ? name : `${prefix}/${name}`
  if (!isPathStyle) url.hostname = `${bucket}.${url.hostname}`
  url.pathname = isPathStyle ? `/${bucket}/${key}` : `/${key}`
  return url
}
