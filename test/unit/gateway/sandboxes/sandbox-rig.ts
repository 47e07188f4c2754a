/** A gateway with sandboxes, whose index and keys lie in memory; and hosts that make them. */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import { BerthError } from '../../../../src/errors.ts'
import { gatewaySchemas } from '../../../../src/gateway/gateway-document.ts'
import type { PlacementKeys, PlacementRecord } from '../../../../src/gateway/sandboxes/placement-keys.ts'
import { gatewaySandboxRoutes } from '../../../../src/gateway/sandboxes/gateway-sandbox-routes.ts'
import type { PlacedSandbox, SandboxIndex, SandboxIndexFilter } from '../../../../src/gateway/sandboxes/sandbox-index.ts'
import { SandboxLookup } from '../../../../src/gateway/sandboxes/sandbox-lookup.ts'
import { SandboxPlacer } from '../../../../src/gateway/sandboxes/sandbox-placer.ts'
import { randomId } from '../../../../src/lib/id.ts'
import { componentSchemas } from '../../../../src/schemas/components.ts'
import { FakeHost, principalOf, startGateway } from '../proxy/proxy-rig.ts'

type Teardown = Parameters<typeof FakeHost.start>[0]

export class MemoryIndex implements SandboxIndex {
  readonly entries = new Map<string, PlacedSandbox>()
  readonly faded: string[] = []

  put = async (sandbox: PlacedSandbox) => { this.entries.set(sandbox.id, sandbox) }
  find = async (id: string) => this.entries.get(id)
  drop = async (id: string) => { this.entries.delete(id) }
  fade = async (id: string) => { this.faded.push(id) }
  page = async ({ pools, limit }: SandboxIndexFilter) => ({ items: [...this.entries.values()].filter(({ pool }) => pools?.includes(pool) ?? true).reverse().slice(0, limit) })
}

export class MemoryKeys implements PlacementKeys {
  readonly records = new Map<string, PlacementRecord>()
  readonly held = new Set<string>()

  hold = async (key: string) => {
    if (this.held.has(key)) throw new BerthError('conflict', 'idempotency_in_progress', 'still running')
    this.held.add(key)
    return async () => { this.held.delete(key) }
  }

  read = async (key: string) => this.records.get(key)
  write = async (key: string, record: PlacementRecord) => { this.records.set(key, record) }
  forget = async (key: string) => { this.records.delete(key) }
}

/** A host that makes sandboxes, one for each Idempotency-Key; `refuse` may answer in its place. */
export class SandboxHost {
  readonly made = new Map<string, Record<string, unknown>>()
  readonly asked: Record<string, unknown>[] = []
  refuse: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined
  host!: FakeHost
  readonly #byKey = new Map<string, Record<string, unknown>>()

  static async start (t: Teardown): Promise<SandboxHost> {
    const made = new SandboxHost()
    made.host = await FakeHost.start(t, made.#handle)
    return made
  }

  #handle: RequestListener = (request, response) => {
    void (async () => {
      const id = /sbx_[a-z0-9]{20}/.exec(request.url!)?.[0]
      const body = request.method === 'POST' ? await json(request) as Record<string, unknown> : {}
      if (request.method === 'POST') this.asked.push(body)
      if (this.refuse?.(request, response)) return
      if (request.url === '/v1/sandboxes') return answer(response, 201, this.#make(request.headers['idempotency-key'] as string, body))
      if (request.url === '/v1/tickets') return answer(response, 201, { ticket: 'tkt', expiresAt: '2026-01-01T00:00:00.000Z', path: '/x?ticket=tkt' })
      const sandbox = this.made.get(id ?? '')
      if (!sandbox) return answer(response, 404, { code: 'sandbox_not_found', kind: 'not_found', message: 'no', requestId: 'r' })
      if (request.method === 'DELETE') {
        this.made.delete(id!)
        return void response.writeHead(204).end()
      }
      answer(response, 200, request.url!.endsWith('/execs') ? { url: request.url } : sandbox)
    })()
  }

  #make (key: string, { labels = {} }: Record<string, unknown>): Record<string, unknown> {
    const known = this.#byKey.get(key)
    if (known) return known
    const sandbox = { id: randomId('sbx') as string, status: 'running', createdAt: new Date().toISOString(), labels }
    this.#byKey.set(key, sandbox)
    this.made.set(sandbox.id, sandbox)
    return sandbox
  }
}

export function answer (response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

export async function startFleet (t: Teardown, { answerMs }: { answerMs?: number } = {}) {
  const index = new MemoryIndex()
  const keys = new MemoryKeys()
  const rig = await startGateway(t, undefined, (app, { links, proxy, workers }) => {
    for (const schema of componentSchemas(gatewaySchemas)) app.addSchema(schema)
    const lookup = new SandboxLookup({ index, links, ...(answerMs === undefined ? {} : { answerMs }) })
    void app.register(gatewaySandboxRoutes, { prefix: '/v1', proxy, links, principalOf, index, placer: new SandboxPlacer({ workers, links, index, keys }), lookup })
  })
  return { ...rig, index, keys }
}
