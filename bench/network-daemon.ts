/** What networks cost those who use a daemon: its start, the step of a create, the change of a policy. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Sandbox } from '../src/schemas/sandbox.ts'
import type { BerthDaemon } from './berth-daemon.ts'
import { timed } from './contestant.ts'
import { atMost, type Claim } from './claims.ts'
import { egressRules } from './network-rules.ts'

/** The pool is filled up when half of it is left, and twenty come at once. */
export const daemonPoolSize = 64
const together = 20

/** Resolves when enough networks are ready and nobody makes any. */
export async function settlePool (daemon: BerthDaemon): Promise<void> {
  for (;;) {
    const metrics = await daemon.request<string>('GET', '/metrics', 200)
    const count = (state: string) => Number(new RegExp(`^berth_network_slots\\{state="${state}"\\} (\\d+)`, 'm').exec(metrics)?.[1] ?? NaN)
    if (count('ready') > daemonPoolSize / 2 && count('building') === 0) return
    await delay(50)
  }
}

export async function measureCreates (daemon: BerthDaemon, { n, signal }: { n: number, signal: AbortSignal }): Promise<Claim[]> {
  const alone: number[] = []
  const atOnce: number[] = []
  const changes = new Map<string, number[]>()
  for (let round = -2; round < n; round++) {
    signal.throwIfAborted()
    await settlePool(daemon)
    const sandbox = await daemon.create({ network: { egress: 'internet' } })
    const durations = await changeNetwork(daemon, sandbox.id)
    await daemon.remove(sandbox.id)
    if (round < 0) continue
    alone.push(networkStep(sandbox))
    for (const [name, durationMs] of durations) changes.set(name, [...changes.get(name) ?? [], durationMs])
  }
  for (let round = 0; round < Math.ceil(n / 3); round++) {
    signal.throwIfAborted()
    await settlePool(daemon)
    const sandboxes = await Promise.all(Array.from({ length: together }, () => daemon.create({ network: { egress: 'internet' } })))
    atOnce.push(...sandboxes.map(networkStep))
    await Promise.all(sandboxes.map(({ id }) => daemon.remove(id)))
  }
  return [
    { claim: 'network step of a create, alone', unit: 'ms', ours: alone, target: atMost(12) },
    { claim: `network step of a create, ${together} creates at once`, unit: 'ms', ours: atOnce, target: atMost(20) },
    ...Array.from(changes, ([name, ours]): Claim => ({ claim: `policy over REST, ${name}`, unit: 'ms', ours, target: atMost(25) })),
  ]
}

/** From the start of the process to `/readyz`. */
export async function measureReadiness (daemon: BerthDaemon, rounds: number): Promise<Claim[]> {
  const fresh: number[] = []
  const adopting: number[] = []
  for (let round = 0; round < rounds; round++) {
    await daemon.end()
    fresh.push(await daemon.start())
    // The daemon leaves its network server only where a sandbox needs it.
    const { id } = await daemon.create()
    await daemon.kill()
    adopting.push(await daemon.start())
    await daemon.remove(id)
  }
  return [
    { claim: 'start of the process → /readyz, network server to be started', unit: 'ms', ours: fresh, other: { name: 'network server found, 1 sandbox', values: adopting } },
  ]
}

async function changeNetwork (daemon: BerthDaemon, id: string): Promise<Array<[string, number]>> {
  const durations: Array<[string, number]> = []
  for (const [name, egress] of [['internet → none', 'none'], ['none → internet', 'internet'], ['internet → rules', egressRules], ['rules → none', 'none']] as const) {
    durations.push([name, await timed(() => daemon.request('PUT', `/v1/sandboxes/${id}/network`, 200, { egress }))])
  }
  return durations
}

function networkStep ({ timings }: Sandbox): number {
  return timings.find(({ step }) => step === 'network')?.durationMs ?? NaN
}
