/** What a gateway adds to a call of a host that is made through it, and to a key that is pressed at a terminal there. */
import { Client } from 'undici'
import type { Terminal } from '../src/schemas/terminal.ts'
import { startJoinedHost, type JoinedHost } from '../test/support/joined-host.ts'
import { atMost } from './claims.ts'
import { mustBe, timed } from './contestant.ts'
import type { FleetBench } from './fleet.ts'
import { raw, sit } from './inside-terminals.ts'
import { quantile } from './statistics.ts'
import type { TaskOutcome } from './tasks.ts'

const calls = 500
const warmUpCalls = 100
const keys = 500
const warmUpKeys = 50
const keyPauseMs = 5

export async function measureProxy ({ teardown, signal }: FleetBench): Promise<TaskOutcome> {
  const joined = await startJoinedHost(teardown)
  const { gateway, daemon, workerId } = joined
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
  const echoes = await measureEchoes(joined)
  return {
    claims: [
      { claim: 'GET /v1/host, added by the gateway', unit: 'ms', ours: through.map((ms, index) => ms - direct[index]!), target: atMost(1.5) },
      { claim: 'GET /v1/host through the gateway', unit: 'ms', ours: through, other: { name: 'directly', values: direct } },
      { claim: 'key → echo of a terminal, added by the gateway', unit: 'ms', ours: echoes.through.map((ms, index) => ms - echoes.direct[index]!) },
      { claim: 'key → echo of a terminal through the gateway', unit: 'ms', ours: echoes.through, other: { name: 'directly', values: echoes.direct } },
    ],
    notes: [`proxy: over kept connections, one call at a time; 99 of 100 took ${quantile(through, 0.99).toFixed(2)} ms through the gateway, ${quantile(direct, 0.99).toFixed(2)} ms directly; keys go to cat at a raw terminal of gVisor by WebSocket, one at a time`],
  }
}

/** From a key to its echo, by turns at two terminals of one sandbox. */
async function measureEchoes ({ gateway, daemon, workerId }: JoinedHost): Promise<{ through: number[], direct: number[] }> {
  const { id: sandboxId } = await daemon.create()
  const placeOf = async (url: string, token: string) => {
    const { status, body, text } = await daemon.request<Terminal>('POST', `/v1/sandboxes/${sandboxId}/terminals`, { cols: 80, rows: 24, argv: raw('exec cat') })
    if (status !== 201) throw new Error(`the host answered ${status}: ${text}`)
    return { url: `${url.replace(/^http/, 'ws')}/v1/sandboxes/${sandboxId}/terminals/${body.id}/attach?since=0`, token }
  }
  const places = { ours: await placeOf(`${gateway.url}/v1/workers/${workerId}/api`, gateway.token), bare: await placeOf(daemon.url, daemon.token) }
  const { ours: through, bare: direct } = await sit({ kind: 'echo', places, keys, warmUpKeys, pauseMs: keyPauseMs })
  await daemon.request('DELETE', `/v1/sandboxes/${sandboxId}?force=true`)
  return { through, direct }
}
