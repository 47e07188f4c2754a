/** The files of one sandbox over REST, as tests ask for them. */
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import type { FileEntry, FileMatches, FilePage } from '../../src/schemas/file.ts'
import type { Answer, TestDaemon } from './test-daemon.ts'

export interface Problem { code: string, message: string, details?: Record<string, unknown> }

export class FileClient {
  readonly #daemon: TestDaemon
  readonly #id: string

  constructor (daemon: TestDaemon, id: string) {
    this.#daemon = daemon
    this.#id = id
  }

  url (operation: string, query: Record<string, string>): string {
    return `/v1/sandboxes/${this.#id}/files${operation}?${new URLSearchParams(query)}`
  }

  get (path: string, headers: Record<string, string> = {}, query: Record<string, string> = {}): Promise<Answer<Problem>> {
    return this.#daemon.request('GET', this.url('', { path, ...query }), undefined, headers)
  }

  put (path: string, body: string, query: Record<string, string> = {}): Promise<Answer<FileEntry & Problem>> {
    return this.#daemon.request('PUT', this.url('', { path, ...query }), body, { 'content-type': 'text/plain' })
  }

  stat (path: string, query: Record<string, string> = {}): Promise<Answer<FileEntry & Problem>> {
    return this.#daemon.request('GET', this.url('/stat', { path, ...query }))
  }

  list (path: string, query: Record<string, string> = {}): Promise<Answer<FilePage & Problem>> {
    return this.#daemon.request('GET', this.url('/list', { path, ...query }))
  }

  search (path: string, query: Record<string, string>): Promise<Answer<FileMatches & Problem>> {
    return this.#daemon.request('GET', this.url('/search', { path, ...query }))
  }

  post<T = FileEntry & { removed: number }> (operation: 'mkdir' | 'move' | 'remove', body: Record<string, unknown>, query: Record<string, string> = {}): Promise<Answer<T & Problem>> {
    return this.#daemon.request('POST', this.url(`/${operation}`, query), body)
  }

  /** A request whose body, and whose answer, are in the caller's hands. */
  open (method: string, operation: string, query: Record<string, string>, headers: Record<string, string> = {}): ClientRequest {
    const request = httpRequest(`${this.#daemon.url}${this.url(operation, query)}`, { method, headers: { authorization: `Bearer ${this.#daemon.token}`, ...headers }, agent: false })
    request.on('error', () => {})
    return request
  }
}

/** The answer to a request. */
export async function answerTo (request: ClientRequest): Promise<IncomingMessage> {
  const [response] = await once(request, 'response') as [IncomingMessage]
  return response
}

/** All bytes of a stream. */
export async function bytesOf (stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}
