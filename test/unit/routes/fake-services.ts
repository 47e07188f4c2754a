/** Small in-memory services behind the HTTP face, so that its manners can be tested without a host. */
import type { TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { buildApp, type AppOptions, type AppServices } from '../../../src/app.ts'
import { BerthError } from '../../../src/errors.ts'
import { randomId } from '../../../src/lib/id.ts'
import type { IdempotencyKeys, IdempotentRequest, KeptAnswer } from '../../../src/routes/idempotency.ts'
import type { Event } from '../../../src/schemas/event.ts'
import type { Exec, ExecEvent, ExecResult } from '../../../src/schemas/exec.ts'
import type { Host } from '../../../src/schemas/host.ts'
import type { Image, ImageDetail } from '../../../src/schemas/image.ts'
import type { LogRecord } from '../../../src/schemas/log.ts'
import type { NetworkDecision } from '../../../src/schemas/network.ts'
import type { Sandbox, SandboxCreate } from '../../../src/schemas/sandbox.ts'
import type { Usage } from '../../../src/schemas/usage.ts'
import { makeTasks } from './fake-tasks.ts'
import { makeTerminals } from './fake-terminals.ts'

export const adminToken = 'admin-token'
export const readToken = 'read-token'
export const asAdmin = { authorization: `Bearer ${adminToken}` }
export const asReader = { authorization: `Bearer ${readToken}` }

export const at = '2026-03-01T09:30:00.000Z'

/** A sandbox as it is after a plain create. */
export function makeSandbox (input: Partial<SandboxCreate> = {}): Sandbox {
  return {
    id: randomId('sbx'),
    status: 'running',
    image: { reference: input.image ?? 'berth/base' },
    env: input.env ?? {},
    workingDir: '/workspace',
    user: '1000:1000',
    resources: { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512, ...input.resources },
    labels: input.labels ?? {},
    runtime: 'runsc',
    hostname: 'box',
    network: { ipv4: '10.200.16.7', ipv6: 'fd00:a1b2::1007', egress: 'none', publish: [], gateway: false },
    createdAt: at,
    startedAt: at,
    timings: ['image', 'rootfs', 'cgroup', 'bundle', 'create', 'start'].map(step => ({ step, durationMs: 12.5 })),
    leaks: [],
  }
}

export function makeExec (sandboxId: string): Exec {
  return { id: randomId('exe'), sandboxId, status: 'running', argv: ['true'], cwd: '/', user: '1000:1000', createdAt: at }
}

export const execResult: ExecResult = {
  id: 'exe_00000000000000000000', exitCode: 0, stdout: 'hello\n', stderr: '', truncated: { stdout: false, stderr: false }, timedOut: false, durationMs: 30,
}

/** A complete layered image, whose digest repeats one hexadecimal digit. */
export function makeImage (digit: string, other: Partial<Image> = {}): Image {
  return {
    digest: `sha256:${digit.repeat(64)}`,
    references: ['127.0.0.1:5000/python:3.12'],
    kind: 'layered',
    state: 'complete',
    sizeBytes: 1000,
    localBytes: 1000,
    createdAt: at,
    lastUsedAt: at,
    leases: 0,
    ...other,
  }
}

export function makeImageDetail (image: Image): ImageDetail {
  return { ...image, config: { env: { A: 'b' }, cmd: ['sh'] }, layers: [], leaseIds: [] }
}

export function makeDecision (sandboxId: string, seq: number): NetworkDecision {
  return { seq, at, sandboxId, kind: 'dns', action: 'denied', reason: 'no_rule', count: 1, name: 'example.com' }
}

export interface Calls {
  name: string
  args: unknown[]
}

/** Every call that reached a service is in `calls`; a test replaces what it wants to be different. */
export function makeServices () {
  const calls: Calls[] = []
  const sandboxes = new Map<string, Sandbox>()
  const note = (name: string, ...args: unknown[]) => void calls.push({ name, args })
  const get = (id: string): Sandbox => {
    const found = sandboxes.get(id)
    if (!found) throw new BerthError('not_found', 'sandbox_not_found', `there is no sandbox ${id}`)
    return found
  }
  const images = new Map<string, Image>()
  const getImage = (digest: string): Image => {
    const found = images.get(digest)
    if (!found) throw new BerthError('not_found', 'image_not_found', `this host has no image ${digest}`)
    return found
  }
  const act = (name: string) => async (id: string, ...rest: unknown[]) => {
    note(name, id, ...rest)
    return get(id)
  }
  const logOf = (id: string) => {
    get(id)
    return { dir: '/log', isEnded: () => true }
  }
  async function * execEvents (): AsyncGenerator<ExecEvent> {
    yield { type: 'started', id: execResult.id }
    yield { type: 'stdout', data: 'hello\n' }
    yield { type: 'exit', exitCode: 0, timedOut: false, durationMs: 30 }
  }
  const services = {
    sandboxes: {
      create: async (input, options) => {
        note('create', input, options)
        const made = makeSandbox(input)
        sandboxes.set(made.id, made)
        return made
      },
      list: filter => {
        note('list', filter)
        return { items: [...sandboxes.values()].slice(0, filter.limit) }
      },
      get,
      update: act('update'),
      start: act('start'),
      stop: act('stop'),
      pause: act('pause'),
      resume: act('resume'),
      wait: act('wait'),
      setNetwork: async (id, request) => {
        note('setNetwork', id, request)
        const changed: Sandbox = { ...get(id), network: { egress: request.egress ?? 'none', publish: [], gateway: request.gateway ?? false } }
        sandboxes.set(id, changed)
        return changed
      },
      remove: async (id, options) => {
        note('remove', id, options)
        get(id)
        sandboxes.delete(id)
      },
    },
    usages: {
      of: async id => makeUsage(get(id).id),
      all: async () => [...sandboxes.keys()].map(makeUsage),
    },
    execs: {
      run: async (id, input, { signal }) => {
        note('run', id, input, signal)
        get(id)
        return execResult
      },
      stream: async id => {
        get(id)
        return execEvents()
      },
      startDetached: async (id, input) => {
        note('startDetached', id, input)
        return makeExec(get(id).id)
      },
      list: id => ({ items: [makeExec(get(id).id)] }),
      get: id => makeExec(get(id).id),
      wait: async id => ({ ...makeExec(get(id).id), status: 'exited', exitCode: 0 }),
      signal: async (...args) => note('signal', ...args),
      result: async () => execResult,
    },
    terminals: makeTerminals(note),
    tasks: makeTasks(note),
    images: {
      pull: async (reference, options) => {
        note('pull', reference, options)
        const made = makeImage('a', { references: [reference] })
        images.set(made.digest, made)
        return made
      },
      list: async () => [...images.values()],
      get: async digest => makeImageDetail(getImage(digest)),
      remove: async digest => {
        note('remove', digest)
        getImage(digest)
        images.delete(digest)
        return { freedBytes: 1000 }
      },
      prune: async options => {
        note('prune', options)
        return { digests: [...images.keys()], freedBytes: 1000 }
      },
    },
    decisions: {
      lastSeq: 9,
      list: filter => {
        note('listDecisions', filter)
        return [makeDecision(filter.sandboxId, 4)]
      },
      gap: (_id, after = 0) => after < 3 ? { type: 'gap', seq: 3, message: 'gone' } : undefined,
      follow: async function * (filter): AsyncGenerator<NetworkDecision> {
        note('followDecisions', filter)
        yield makeDecision(filter.sandboxId, 10)
      },
    },
    ports: {
      list: async id => {
        note('listPorts', id)
        return [{ port: 80, address: '0.0.0.0', isLoopback: false }, { port: 5432, address: '127.0.0.1', isLoopback: true }]
      },
    },
    network: { traffic: async () => ({ receivedBytes: 1000, sentBytes: 200 }) },
    logSources: { sandboxLog: logOf, execLog: logOf, taskLog: () => ({ dir: '/log', isEnded: () => true }) },
    logs: {
      readBatches: async function * (options): AsyncGenerator<LogRecord[]> {
        note('readBatches', options)
        yield [{ type: 'line', cursor: '0:10', at, stream: 'stdout', text: 'one', partial: false }]
        yield [{ type: 'gap', cursor: '0:20', message: 'lost', bytes: 10 }]
      },
    },
    events: {
      lastSeq: 7,
      read: (filter): Event[] => {
        note('read', filter)
        return [{ seq: 1, at, type: 'host.started', data: {} }]
      },
      follow: async function * (filter): AsyncGenerator<Event> {
        note('follow', filter)
        yield { seq: 2, at, type: 'host.stopping', data: {} }
      },
    },
    host: { describe: async () => ({}) as Host, drain: async () => ({}) as Host, undrain: async () => ({}) as Host, readiness: () => ({ ready: true, problems: [] }) },
    files: {} as AppServices['files'],
    tickets: { create: facts => ({ ticket: `ticket-${'port' in facts ? facts.port : 'any'}`, expiresAt: at }), redeem: () => undefined },
    tokens: {
      create: request => {
        note('createToken', request)
        return { id: `tok_${'a'.repeat(20)}`, token: 'berth_secret' }
      },
      listOf: () => [{ id: `tok_${'a'.repeat(20)}`, name: 'token', createdAt: at }],
      revokeOne: (...args) => note('revokeOne', ...args),
      isValid: () => true,
      verify: token => token === adminToken ? { id: 'tok_admin', scope: 'admin' } : token === readToken ? { id: 'tok_read', scope: 'read' } : undefined,
    },
    idempotency: makeIdempotency(),
    metrics: new Registry(),
  } satisfies AppServices as AppServices
  return { services, calls, sandboxes, images }
}

function makeUsage (sandboxId: string): Usage {
  return { sandboxId, at, cpuTimeMs: 12.5, memoryBytes: 2000, peakMemoryBytes: 3000, pids: 4 }
}

function makeIdempotency (): IdempotencyKeys {
  const kept = new Map<string, { bodyHash: string, answer?: KeptAnswer }>()
  const place = (request: IdempotentRequest) => `${request.tokenId} ${request.key}`
  return {
    begin: request => {
      const entry = kept.get(place(request))
      if (!entry) {
        kept.set(place(request), { bodyHash: request.bodyHash })
        return { state: 'new' }
      }
      if (entry.bodyHash !== request.bodyHash) throw new BerthError('conflict', 'idempotency_key_reused', 'used for another request')
      if (!entry.answer) throw new BerthError('conflict', 'idempotency_in_progress', 'under way')
      return { state: 'replay', ...entry.answer }
    },
    complete: (request, answer) => void kept.set(place(request), { bodyHash: request.bodyHash, answer }),
    abandon: request => void kept.delete(place(request)),
  }
}

/** The app on fake services; closed when the test ends. */
export async function buildTestApp (t: TestContext, options: Partial<AppOptions> = {}) {
  const parts = makeServices()
  const app: FastifyInstance = buildApp({ services: parts.services, logger: pino({ level: 'silent' }), version: '0.0.0', ...options })
  t.after(() => app.close())
  await app.ready()
  return { ...parts, app }
}
