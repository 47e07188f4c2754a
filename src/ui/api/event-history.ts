/** The newest of the events that are kept. The API reads from a place on; where the end is has to be looked for. */
import type { Event } from '../../schemas/event.ts'

/** The first event behind a seq, if there is one. */
export type FirstAfter = (seq: number) => Promise<{ seq: number } | undefined>

/** The seq of the newest event, 0 where there is none; about twice as many questions as its figure has bits. */
export async function findLastSeq (firstAfter: FirstAfter): Promise<number> {
  let known = 0
  let step = 1
  // In growing steps until nothing is behind, then by halves.
  for (let next = await firstAfter(0); next !== undefined; next = await firstAfter(known + step)) {
    known = next.seq
    step *= 2
  }
  while (step > 1) {
    step = Math.ceil(step / 2)
    const next = await firstAfter(known + step - 1)
    if (next !== undefined) known = next.seq
    else if (step === 1) break
  }
  for (let next = await firstAfter(known); next !== undefined; next = await firstAfter(known)) known = next.seq
  return known
}

/** Both lists together, by seq, each event once; at most the newest `most`. */
export function mergeEvents (older: readonly Event[], newer: readonly Event[], most: number): Event[] {
  const bySeq = new Map([...older, ...newer].map(event => [event.seq, event]))
  return [...bySeq.values()].sort((a, b) => a.seq - b.seq).slice(-most)
}
