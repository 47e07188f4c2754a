/** The name server of sandboxes on loopback, where each sandbox is another address of 127.0.0.0/8. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import type { Egress } from '../../src/schemas/network.ts'
import { decideAddress, isNameResolvable, parseEgress, portsToOpen } from '../../src/services/network/egress-policy.ts'
import { DnsForwarder, type DnsForwarderOptions } from '../../src/services/network/server/dns-forwarder.ts'
import { NameResolver } from '../../src/services/network/server/name-resolver.ts'
import type { Decision, OpenRequest, ServerPolicy } from '../../src/services/network/server/network-protocol.ts'
import { DnsAuthority } from './dns-authority.ts'
import { askOverUdp, freeEndpoint, queryOf, type DnsClientOptions } from './dns-client.ts'

export const gateway4 = '10.200.0.1'
export const gateway6 = 'fd00:a1b2::1'
const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }

export class DnsForwarderFixture {
  readonly authority: DnsAuthority
  readonly decisions: Decision[] = []
  readonly opened: Omit<OpenRequest, 'requestId'>[] = []
  /** What `open` resolves to; replaced by tests that delay it or let it fail. */
  open: () => Promise<boolean> = async () => true
  readonly #policies = new Map<string, ServerPolicy>()
  readonly #server: { address: string, port: number }
  #sandboxes = 0

  private constructor (authority: DnsAuthority, server: { address: string, port: number }) {
    this.authority = authority
    this.#server = server
  }

  static async start (t: TestContext, options: Partial<Pick<DnsForwarderOptions, 'limits' | 'resolver'>> = {}): Promise<DnsForwarderFixture> {
    const server = await freeEndpoint()
    const fixture = new DnsForwarderFixture(await DnsAuthority.start(t), server)
    const failures: string[] = []
    const logger = pino({ level: 'warn' }, { write: (line: string) => { failures.push(line) } })
    const resolver = new NameResolver({ servers: () => [fixture.authority.server], logger })
    const forwarder = new DnsForwarder({
      resolver,
      policyOf: source => fixture.#policies.get(source),
      gateway4,
      gateway6,
      pools,
      decide: { isNameResolvable, portsToOpen, decideAddress },
      record: decision => fixture.decisions.push(decision),
      open: async request => {
        fixture.opened.push(request)
        return await fixture.open()
      },
      logger,
      ...options,
    })
    await forwarder.listen([server.address], server.port)
    t.after(async () => {
      await forwarder.close()
      resolver.close()
      assert.deepEqual(failures, [])
    })
    return fixture
  }

  /** A sandbox with an address of its own: what a client of the name server is there. */
  sandbox (egress: Egress, more: Partial<ServerPolicy> = {}): DnsClientOptions & { sandboxId: string } {
    const number = ++this.#sandboxes
    const from = this.#server.address.replace(/\d+$/, last => String((Number(last) + number) % 250 + 1))
    const sandboxId = `sbx_${number}`
    this.setPolicy(from, { sandboxId, egress: parseEgress(egress, pools), ...more })
    return { from, server: this.#server, sandboxId }
  }

  setPolicy (from: string, policy: Partial<ServerPolicy> | undefined): void {
    if (policy === undefined) this.#policies.delete(from)
    else this.#policies.set(from, { sandboxId: '', device: '', ipv4: from, ipv6: '', egress: parseEgress('none', pools), hasGateway: false, publish: [], ...policy })
  }

  changeEgress (from: string, egress: Egress): void {
    this.setPolicy(from, { ...this.#policies.get(from), egress: parseEgress(egress, pools) })
  }

  /** The code of the answer, and the data of its records; with EDNS when bytes are given. */
  async ask (client: DnsClientOptions, name: string, type = 'A', ednsBytes?: number): Promise<{ code: string, data: unknown[] }> {
    const { rcode, answers = [] } = await askOverUdp(client, queryOf(name, type, { ednsBytes }))
    return { code: rcode, data: answers.map(answer => 'data' in answer ? answer.data : undefined) }
  }

  /** Decisions since the last call, without what all have in common. */
  newDecisions (): Omit<Decision, 'kind'>[] {
    return this.decisions.splice(0).map(({ kind, ...decision }) => {
      assert.equal(kind, 'dns')
      return decision
    })
  }
}
