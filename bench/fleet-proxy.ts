/** What a gateway adds to a call of a host that is made through it. */
import { Client } from 'undici'
import { startJoinedHost } from '../test/support/joined-host.ts'
import { atMost } from './claims.ts'
import { mustBe, timed } from './contestant.ts'
import type { FleetBench } from './fleet.ts'
import { quantile } from './statistics.ts'
import type { TaskOutcome } from './tasks.ts'

const calls = 500
const warmUpCalls = 100

export async function measureProxy ({ teardown, signal }: FleetBench): Promise<TaskOutcome> {
  const { gateway, daemon, workerId } = await startJoinedHost(teardown)
  const open = (url: string, token: string, path: string) => {
    const client = new Client(url)
    teardown.after(() => client.destroy())
    return async () => {
      const { statusCode, body } = await client.request({ method: 'GET', path, headers: { authorization: `Bearer ${token}` } })
      await body.text()
      mustBe(`the answer to GET ${path}`, statusCode, 200)
    }
  }
  const ways = {
    through: open(gateway.url, gateway.token, `/v1/workers/${workerId}/api/v1/host`),
    direct: open(daemon.url, daemon.token, '/v1/host'),
  }
  const samples = { through: [] as number[], direct: [] as number[] }
  for (let index = -warmUpCalls; index < calls; index++) {
    signal.throwIfAborted()
    for (const way of index % 2 === 0 ? ['through', 'direct'] as const : ['direct', 'through'] as const) {
      const ms = await timed(ways[way])
      if (index >= 0) samples[way].push(ms)
    }
  }
  const { through, direct } = samples
  return {
    claims: [
      { claim: 'GET /v1/host, added by the gateway', unit: 'ms', ours: through.map((ms, index) => ms - direct[index]!), target: atMost(1.5) },
      { claim: 'GET /v1/host through the gateway', unit: 'ms', ours: through, other: { name: 'directly', values: direct } },
    ],
    notes: [`proxy: over kept connections, one call at a time; 99 of 100 took ${quantile(through, 0.99).toFixed(2)} ms through the gateway, ${quantile(direct, 0.99).toFixed(2)} ms directly`],
  }
}
