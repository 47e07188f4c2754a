/** What a sandbox reaches by names: lines of the table in docs/network.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { prover, type Evidence } from '../support/network-table.ts'
import { NetworkWorld, outside, worldHost, type ProbedSandbox } from '../support/network-world.ts'

const nothing = { addresses: [], code: 'ENOTFOUND' }
const reset = { status: 0, text: '', connection: 0 }

test('a sandbox reaches what its rules name, under that name only', { concurrency: true }, async t => {
  const world = await NetworkWorld.start(t)
  const daemon = await world.daemon()
  const [named, denying, late] = await Promise.all([
    world.sandbox(daemon, { egress: { allow: ['allowed.test', '*.wild.test', 'git.test:22', 'rebound.test', 'metadata.test', 'host.test', 'inside.test', `${outside.inner4}:443`], deny: ['b.a.wild.test'] } }),
    world.sandbox(daemon, { egress: { allow: ['internet'], deny: ['forbidden.test', outside.other4] } }),
    world.sandbox(daemon, { egress: { allow: ['git.test:22'] } }),
  ])
  const prove = prover(t)
  const lookup = async ({ probe }: ProbedSandbox, name: string) => await probe.ask('lookup', { name })
  const tls = async ({ probe }: ProbedSandbox, address: string, name?: string) => await probe.ask('tls', { address, ...name !== undefined && { name } })
  const wasAsked = async (name: string) => (await world.seen()).some(line => line.startsWith(`dns ${name} `))
  const wasGreeted = async (name: string) => (await world.seen()).some(line => line.startsWith(`tls ${name}`))
  /** A name that is allowed, and leads where the sandbox may not go. */
  async function ledAstray (name: string, address: string): Promise<Evidence> {
    const [answer] = await named.probe.ask('http', { requests: [{ address: outside.web4, host: name }] })
    assert.equal(answer?.status, 403, answer?.text)
    assert.deepEqual(await tls(named, outside.web4, name), reset)
    return { sandbox: named, name, port: 80, address }
  }

  await Promise.all([
    prove('with `internet` and a denied address: that address', async () => {
      assert.equal((await denying.probe.ask('tcp', { address: outside.web4, port: 22 })).outcome, 'open')
      assert.equal((await denying.probe.ask('tcp', { address: outside.other4, port: 22 })).outcome, 'refused')
      return { sandbox: denying, address: outside.other4, port: 22 }
    }),
    prove('with `internet` and a denied name: asking for it', async () => {
      assert.deepEqual(await lookup(denying, 'forbidden.test'), nothing)
      assert.ok(!await wasAsked('forbidden.test'))
      return { sandbox: denying, name: 'forbidden.test' }
    }),
    prove('with `internet` and a denied name: TLS by that name to its address', async () => {
      assert.deepEqual(await tls(denying, outside.web4, 'forbidden.test'), reset)
      assert.deepEqual(await tls(denying, outside.web6, 'forbidden.test'), reset)
      assert.ok(!await wasGreeted('forbidden.test'))
      return { sandbox: denying, name: 'forbidden.test', address: outside.web4 }
    }),
    prove('with `internet` and a denied name: other names and addresses', async () => {
      assert.deepEqual((await lookup(denying, 'git.test')).addresses, [outside.web6, outside.web4])
      assert.equal((await tls(denying, outside.web4, 'git.test')).status, 200)
      assert.equal((await tls(denying, outside.web4)).status, 200)
      assert.equal((await denying.probe.ask('tcp', { address: outside.web6, port: 5432 })).outcome, 'open')
    }),
    prove('a question to another name server than the host\'s', async () => {
      for (const server of [outside.foreignDns4, outside.foreignDns6]) {
        assert.deepEqual(await named.probe.ask('dns', { name: 'a.wild.test', server }), { addresses: [outside.web4] })
        assert.ok(!(await world.seen()).some(line => line.startsWith(`udp ${server}:53`)))
      }
      return { sandbox: named, name: 'a.wild.test', entry: '*.wild.test' }
    }),
    prove('a name that an entry allows: HTTP and TLS, IPv4 and IPv6', async () => {
      assert.deepEqual((await lookup(named, 'allowed.test')).addresses, [outside.web6, outside.web4])
      for (const address of [outside.web4, outside.web6]) {
        assert.match((await tls(named, address, 'allowed.test')).text, new RegExp(`^hello from ${address} to `))
        const answers = await named.probe.ask('http', {
          requests: [
            { address, host: 'allowed.test' }, { address, host: 'allowed.test', path: '/echo', method: 'POST', body: 'a body' }, { address, host: 'allowed.test', path: '/nothing' },
          ]
        })
        assert.deepEqual(answers.map(({ status, connection }) => [status, connection]), [[200, 0], [200, 0], [404, 0]])
        assert.equal(answers[1]?.text, 'a body')
      }
      return { sandbox: named, name: 'allowed.test', address: outside.web6, port: 443, entry: 'allowed.test' }
    }),
    prove('a name that no entry allows', async () => {
      assert.deepEqual(await lookup(named, 'other.test'), nothing)
      assert.ok(!await wasAsked('other.test'))
      return { sandbox: named, name: 'other.test' }
    }),
    prove('a name below `*.` and a domain', async () => {
      assert.deepEqual((await lookup(named, 'a.wild.test')).addresses, [outside.web6, outside.web4])
      assert.equal((await tls(named, outside.web4, 'a.wild.test')).status, 200)
      return { sandbox: named, name: 'a.wild.test', entry: '*.wild.test', port: 443 }
    }),
    prove('the domain itself, where only names below it are allowed', async () => {
      assert.deepEqual(await lookup(named, 'wild.test'), nothing)
      assert.deepEqual(await tls(named, outside.web4, 'wild.test'), reset)
      return { sandbox: named, name: 'wild.test' }
    }),
    prove('a name that both allow and deny match', async () => {
      assert.deepEqual(await lookup(named, 'b.a.wild.test'), nothing)
      assert.deepEqual(await tls(named, outside.web4, 'b.a.wild.test'), reset)
      return { sandbox: named, name: 'b.a.wild.test', entry: 'b.a.wild.test' }
    }),
    prove('TLS to an allowed name\'s address by a forbidden name', async () => {
      assert.deepEqual(await tls(named, outside.web4, 'forbidden.test'), reset)
      assert.ok(!await wasGreeted('forbidden.test'))
      return { sandbox: named, name: 'forbidden.test', address: outside.web4, port: 443 }
    }),
    prove('TLS to an allowed name\'s address without a name', async () => {
      assert.deepEqual(await tls(named, outside.web4), reset)
      return { sandbox: named, address: outside.web4, port: 443 }
    }),
    prove('TLS to any other address by an allowed name', async () => {
      assert.match((await tls(named, outside.dns4, 'allowed.test')).text, new RegExp(`^hello from ${outside.web4} `))
    }),
    prove('HTTP to an allowed name\'s address with a forbidden Host', async () => {
      const [answer] = await named.probe.ask('http', { requests: [{ address: outside.web4, host: 'forbidden.test', path: '/first' }] })
      assert.equal(answer?.status, 403)
      assert.ok(!(await world.seen()).includes('http forbidden.test /first'))
      return { sandbox: named, name: 'forbidden.test', address: outside.web4, port: 80 }
    }),
    prove('a second request on a kept connection with a forbidden Host', async () => {
      const answers = await named.probe.ask('http', { requests: [{ address: outside.other4, host: 'allowed.test' }, { address: outside.other4, host: 'other.test', path: '/second' }] })
      assert.deepEqual(answers.map(({ status, connection }) => [status, connection]), [[200, 0], [403, 0]])
      assert.ok(!(await world.seen()).includes('http other.test /second'))
      return { sandbox: named, name: 'other.test', address: outside.other4, port: 80 }
    }),
    prove('QUIC to an allowed name\'s address', async () => {
      assert.notEqual((await named.probe.ask('udp', { address: outside.web4, port: 443, waitMs: 300 })).outcome, 'open')
      return { sandbox: named, protocol: 'udp', address: outside.web4, port: 443 }
    }),
    prove('an allowed name that leads to a private address: asking for it', async () => {
      assert.deepEqual((await lookup(named, 'rebound.test')).addresses, [])
      assert.ok(await wasAsked('rebound.test'))
      return { sandbox: named, name: 'rebound.test', address: outside.private4 }
    }),
    prove('an allowed name that leads to a private address: connecting by it', () => ledAstray('rebound.test', outside.private4)),
    prove('an allowed name that leads to the metadata service: connecting by it', () => ledAstray('metadata.test', outside.metadata4)),
    prove('an allowed name that leads to the host: connecting by it', () => ledAstray('host.test', worldHost.ipv4)),
    prove('an allowed name that leads to an allowed private address', async () => {
      assert.deepEqual((await lookup(named, 'inside.test')).addresses, [outside.inner4])
      assert.match((await tls(named, outside.inner4, 'inside.test')).text, new RegExp(`^hello from ${outside.inner4} `))
    }),
    // One after the other: the name is asked for between them.
    (async () => {
      const reach = async (port: number) => (await late.probe.ask('tcp', { address: outside.web4, port })).outcome
      await prove('a port that a name is allowed with, before the name was asked for', async () => {
        assert.equal(await reach(22), 'refused')
        return { sandbox: late, address: outside.web4, port: 22 }
      })
      await prove('a port that a name is allowed with, once the name was asked for', async () => {
        assert.deepEqual((await lookup(late, 'git.test')).addresses, [outside.web6, outside.web4])
        assert.equal(await reach(22), 'open')
        assert.equal((await late.probe.ask('tcp', { address: outside.web6, port: 22 })).outcome, 'open')
      })
      await prove('another port of the same address', async () => {
        assert.equal(await reach(5432), 'refused')
        const [answer] = await late.probe.ask('http', { requests: [{ address: outside.web4, host: 'git.test' }] })
        assert.equal(answer?.status, 403)
        return { sandbox: late, address: outside.web4, port: 5432 }
      })
    })(),
  ])
})
