/** A fleet: what Redis and a gateway add to the start of a task and to a call of a host, and how many tasks a second go through one gateway. */
import { mkdir } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import type { Teardown } from '../test/support/test-daemon.ts'
import { measureProxy } from './fleet-proxy.ts'
import { measureStarts } from './fleet-starts.ts'
import { measureFleetThroughput } from './fleet-throughput.ts'
import type { TaskOutcome } from './tasks.ts'

export const fleetParts = ['start', 'rate', 'proxy'] as const
export type FleetPart = typeof fleetParts[number]

export interface FleetOptions {
  parts: readonly FleetPart[]
  rounds: number
  dir: string
  stack: ResourceStack
  signal: AbortSignal
  progress: (text: string) => void
}

export interface FleetBench {
  rounds: number
  dir: string
  /** Releases at the end of the part. */
  teardown: Teardown
  signal: AbortSignal
}

export async function measureFleet ({ parts, rounds, dir, stack, signal, progress }: FleetOptions): Promise<TaskOutcome> {
  const outcome: TaskOutcome = { claims: [], notes: [] }
  await mkdir(dir, { recursive: true })
  const all = { start: measureStarts, rate: measureFleetThroughput, proxy: measureProxy }
  for (const part of parts) {
    progress(`fleet: ${part}`)
    const releases: Array<() => Promise<void>> = []
    const release = async () => { for (let last = releases.pop(); last; last = releases.pop()) await last() }
    stack.defer(`the fleet of ${part}`, release)
    const loadBefore = loadavg()[0]!
    const { claims, notes } = await all[part]({ rounds, dir: join(dir, part), teardown: { after: made => { releases.push(made) } }, signal })
    await release()
    outcome.claims.push(...claims)
    outcome.notes.push(...notes, `${part}: the load of the machine was ${loadBefore.toFixed(1)} before and ${loadavg()[0]!.toFixed(1)} after`)
  }
  return outcome
}
