/** Scenarios of one sandbox at a time, every contestant in turn within each round: drift of the machine hits all alike. */
import type { Contestant, ContestantName } from './contestant.ts'
import type { Row, Target } from './report.ts'

export interface SingleOptions {
  n: number
  signal: AbortSignal
}

const warmUps = 2

export async function measureEcho (contestants: readonly Contestant[], options: SingleOptions): Promise<Row> {
  return {
    ...await interleave(contestants, options, contestant => contestant.runEcho()),
    scenario: 'create → exit of echo, warm',
    target: atMostRatio(1.25),
  }
}

export async function measureExec (contestants: readonly Contestant[], options: SingleOptions): Promise<Row> {
  const idle = new Map<Contestant, string>()
  for (const contestant of contestants) idle.set(contestant, await contestant.startIdle())
  const row = await interleave(contestants, options, contestant => contestant.execTrue(idle.get(contestant) ?? ''))
  for (const [contestant, id] of idle) await contestant.remove(id)
  return { ...row, scenario: 'attached exec of true', target: atMostRatio(1.3) }
}

export async function measureDelete (contestants: readonly Contestant[], options: SingleOptions): Promise<Row> {
  const row = await interleave(contestants, options, async contestant => await contestant.remove(await contestant.startIdle()))
  return { ...row, scenario: 'delete of a running sandbox', target: { of: 'value', bound: 'at most', limit: 100 } }
}

function atMostRatio (limit: number): Target {
  return { of: 'ratio', bound: 'at most', limit }
}

/** The first differs from round to round, so that no one always follows the same other. */
async function interleave (contestants: readonly Contestant[], options: SingleOptions, measure: (contestant: Contestant) => Promise<number>): Promise<Pick<Row, 'samples' | 'unit'>> {
  const samples: Partial<Record<ContestantName, number[]>> = {}
  for (let round = -warmUps; round < options.n; round++) {
    const first = (round + warmUps) % contestants.length
    for (const contestant of [...contestants.slice(first), ...contestants.slice(0, first)]) {
      options.signal.throwIfAborted()
      const durationMs = await measure(contestant)
      if (round >= 0) (samples[contestant.name] ??= []).push(durationMs)
    }
  }
  return { samples, unit: 'ms' }
}
