/** The calls of the load, each with what its answer promises. */
import { isDeepStrictEqual } from 'node:util'
import type { Exec, ExecResult } from '../../src/schemas/exec.ts'
import type { Network, NetworkRequest } from '../../src/schemas/network.ts'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import type { Ledger } from './ledger.ts'
import type { PatientClient, Reply } from './patient-client.ts'

export class SandboxCalls {
  readonly client: PatientClient
  readonly ledger: Ledger
  #operations = 0

  constructor (client: PatientClient, ledger: Ledger) {
    this.client = client
    this.ledger = ledger
  }

  /** A name that no other operation of this loop has. */
  nextName (kind: string): string {
    return `${kind}-${++this.#operations}`
  }

  async create (input: Partial<SandboxCreate>): Promise<Sandbox> {
    const op = this.nextName('create')
    const reply = await this.client.send<Sandbox>('POST', '/sandboxes', { key: op, body: { image: 'berth/base', labels: { op }, ...input } })
    this.#must(reply, 201, op)
    // A program of its own may have ended before the answer was written.
    const expected = input.start === false ? ['created'] : input.entrypoint ? ['running', 'stopping', 'stopped'] : ['running']
    this.ledger.expect(expected.includes(reply.body.status), () => `${op}: a create answered 201 with a sandbox that is ${reply.body.status}: ${reply.text}`)
    this.ledger.creates.set(op, { id: reply.body.id, fate: 'kept' })
    this.ledger.count('create')
    return reply.body
  }

  async get (id: string): Promise<Sandbox> {
    const reply = await this.client.send<Sandbox>('GET', `/sandboxes/${id}`)
    this.#must(reply, 200, `get ${id}`)
    return reply.body
  }

  /** A verb whose answer promises a status; asked again after a loss, it may find itself done. */
  async verb (id: string, verb: 'start' | 'stop' | 'pause' | 'resume', promised: string, body?: unknown): Promise<void> {
    const reply = await this.client.send<Sandbox>('POST', `/sandboxes/${id}/${verb}`, { key: this.nextName(verb), ...(body === undefined ? {} : { body }) })
    if (reply.status === 409 && reply.losses > 0) {
      const { status } = await this.get(id)
      if (status === promised) return this.ledger.count(verb)
    }
    this.#must(reply, 200, `${verb} ${id}`)
    this.ledger.expect(reply.body.status === promised, () => `${verb} ${id} answered ${reply.body.status}`)
    const { status } = await this.get(id)
    this.ledger.expect(status === promised, () => `${verb} ${id} was answered, but the sandbox is ${status}`)
    this.ledger.count(verb)
  }

  /** The whole wish, which may be asked for any number of times. */
  async setNetwork (id: string, wish: NetworkRequest): Promise<void> {
    const reply = await this.client.send<Network>('PUT', `/sandboxes/${id}/network`, { body: wish })
    this.#must(reply, 200, `network of ${id}`)
    const { network } = await this.get(id)
    for (const [name, wanted] of Object.entries({ egress: wish.egress, publish: wish.publish ?? [] })) {
      const actual = network[name as 'egress' | 'publish']
      this.ledger.expect(isDeepStrictEqual(actual, wanted), () => `${name} of ${id} was answered as ${JSON.stringify(wanted)}, but is ${JSON.stringify(actual)}`)
    }
    this.ledger.count('set network')
  }

  async wait (id: string): Promise<Sandbox> {
    const reply = await this.client.send<Sandbox>('GET', `/sandboxes/${id}/wait?timeoutMs=120000`)
    this.#must(reply, 200, `wait ${id}`)
    return reply.body
  }

  async remove (op: string, id: string): Promise<void> {
    const reply = await this.client.send('DELETE', `/sandboxes/${id}?force=true`)
    this.#must(reply, 204, `delete ${id}`)
    const entry = this.ledger.creates.get(op)
    if (entry) entry.fate = 'deleted'
    this.ledger.count('delete')
  }

  /** An attached exec dies with its daemon; an answer must be the whole truth. */
  async execAttached (id: string, text: string, exitCode: number): Promise<void> {
    const reply = await this.client.send<ExecResult>('POST', `/sandboxes/${id}/execs?wait=true`, { body: { argv: ['sh', '-c', `echo ${text}; exit ${exitCode}`] } })
    this.#must(reply, 200, `exec in ${id}`)
    this.ledger.expect(reply.body.exitCode === exitCode && reply.body.stdout === `${text}\n`, () => `an attached exec in ${id} answered ${reply.text}`)
    this.ledger.count('attached exec')
  }

  /** A detached exec with lines at intervals, written down to be checked at the end. */
  async execDetached (id: string, lines: number, exitCode: number): Promise<string> {
    const name = this.nextName('exec')
    const program = `i=0; while [ $i -lt ${lines} ]; do echo ${name} $i; i=$((i+1)); sleep 0.05; done; exit ${exitCode}`
    const reply = await this.client.send<Exec>('POST', `/sandboxes/${id}/execs`, { key: name, body: { argv: ['sh', '-c', program], detach: true } })
    this.#must(reply, 201, `detached exec in ${id}`)
    const log = Array.from({ length: lines }, (_value, index) => `${name} ${index}\n`).join('')
    this.ledger.execs.push({ sandboxId: id, execId: reply.body.id, exitCode, log })
    this.ledger.count('detached exec')
    return reply.body.id
  }

  async checkExec (sandboxId: string, execId: string): Promise<void> {
    const promised = this.ledger.execs.find(exec => exec.execId === execId)
    if (!promised) throw new Error('an exec that nobody wrote down')
    const reply = await this.client.send<Exec>('GET', `/sandboxes/${sandboxId}/execs/${execId}?wait=true&timeoutMs=120000`)
    this.ledger.expect(reply.status === 200 && reply.body.exitCode === promised.exitCode, () => `detached exec ${execId} in ${sandboxId} should have ended with ${promised.exitCode}: ${reply.text}`)
    const log = await this.log(`/sandboxes/${sandboxId}/execs/${execId}/logs`)
    this.ledger.expect(log === promised.log, () => `the log of detached exec ${execId} in ${sandboxId} is ${JSON.stringify(log)}`)
    this.ledger.execs.splice(this.ledger.execs.indexOf(promised), 1)
    this.ledger.count('detached exec checked')
  }

  async log (path: string): Promise<string> {
    const reply = await this.client.send('GET', path)
    this.#must(reply, 200, path)
    return reply.text
  }

  #must (reply: Reply, status: number, what: string): void {
    if (reply.status === status) return
    this.ledger.blame(`${what} was answered ${reply.status} after ${reply.losses} lost connections: ${reply.text}`)
    throw new Error(`${what} was answered ${reply.status}: ${reply.text}`)
  }
}
