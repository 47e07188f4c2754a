/** What the daemon has promised by its answers, and how often it broke its word. */

export interface PromisedExec {
  sandboxId: string
  execId: string
  exitCode: number
  log: string
}

export interface PromisedDeadline {
  sandboxId: string
  startedAt: string
  timeoutMs: number
}

export class Ledger {
  /** Creates by the label `op` they carry: the one sandbox that came of each, and what is to be so of it at the end. */
  readonly creates = new Map<string, { id: string, fate: 'kept' | 'deleted' }>()
  readonly execs: PromisedExec[] = []
  readonly deadlines: PromisedDeadline[] = []
  readonly broken: string[] = []
  readonly done = new Map<string, number>()

  count (what: string): void {
    this.done.set(what, (this.done.get(what) ?? 0) + 1)
  }

  /** A promise was broken. */
  blame (text: string): void {
    this.broken.push(text)
  }

  expect (isKept: boolean, text: () => string): void {
    if (!isKept) this.blame(text())
  }
}
