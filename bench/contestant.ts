/** What takes part in the comparison: ours, the bare runtime, podman. All do the same work and answer how long it took. */

export interface Contestant {
  readonly name: ContestantName
  /** From the wish to the exit code of `echo hi`, in milliseconds; what it leaves is removed outside of that time. */
  runEcho: () => Promise<number>
  /** Starts a sandbox that idles under its init; answers its id. */
  startIdle: () => Promise<string>
  /** Runs `true` in a running sandbox, attached, in milliseconds. */
  execTrue: (id: string) => Promise<number>
  /** Ends and removes a running sandbox, in milliseconds. */
  remove: (id: string) => Promise<number>
}

export type ContestantName = 'ours' | 'bare' | 'podman'

/** The time that work takes, in milliseconds. */
export async function timed (work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  await work()
  return performance.now() - startedMs
}

/** A wrong result ends the benchmark: a quick failure is no speed. */
export function mustBe (what: string, actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new Error(`${what} is ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`)
}
