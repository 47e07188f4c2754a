import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { Nftables } from '../../host/nftables.ts'

export interface RuleQueueOptions {
  nftables: Pick<Nftables, 'run'>
  /** Commands that replace all rules by those that are wanted at the time of the call, in one transaction. */
  fullRules: () => Promise<string> | string
  logger: Pick<Logger, 'warn' | 'error'>
  /** Called after all rules were replaced. */
  onReload?: () => void
  /** After how long a replacement that is owed is tried again. */
  retryMs?: number
}

const defaultRetryMs = 1000
const maximumRetryMs = 60_000

interface Change {
  /** undefined: replace all rules. */
  commands: string | undefined
  isInFullRules: boolean
  resolve: () => void
  reject: (error: BerthError) => void
}

/**
 * Changes of the packet filter, in the order in which they come, one transaction at a time: what comes while one runs goes together in the
 * next. Whoever submits a change has it among what `fullRules` answers before that, so that replacing all rules makes up for any that fails:
 *
 *     all in one transaction ─▶ one by one ─▶ replace all rules ─▶ refuse the one change that failed
 *                                             (settles all that it contains)
 *
 * A change that is refused may be in force all the same, by an earlier replacement that saw it among what is wanted. So a replacement is
 * owed after each refusal, when the change was taken back, and tried until it succeeds.
 */
export class RuleQueue {
  readonly #options: RuleQueueOptions
  #waiting: Change[] = []
  #isRunning = false
  #owesReplacement = false
  #isClosed = false
  #retry: NodeJS.Timeout | undefined
  #retryMs: number

  constructor (options: RuleQueueOptions) {
    this.#options = options
    this.#retryMs = options.retryMs ?? defaultRetryMs
  }

  /**
   * Resolves when the change is in force, by these commands or because all rules were replaced. A change that is not among what
   * `fullRules` answers is made again after a replacement.
   *
   * @throws BerthError unavailable `packet_filter_failed` when it could not be made; the caller takes it back from what is wanted, in the
   * very turn of the event loop in which it learns of it.
   */
  submit (commands: string, { isInFullRules = true }: { isInFullRules?: boolean } = {}): Promise<void> {
    return this.#enqueue(commands, isInFullRules)
  }

  /**
   * Replaces all rules by those that are wanted.
   *
   * @throws BerthError unavailable `packet_filter_failed`: the former rules are in force.
   */
  reload (): Promise<void> {
    return this.#enqueue(undefined, true)
  }

  /** Stops trying what is owed. */
  close (): void {
    this.#isClosed = true
    clearTimeout(this.#retry)
  }

  #enqueue (commands: string | undefined, isInFullRules: boolean): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting.push({ commands, isInFullRules, resolve, reject })
    if (!this.#isRunning) void this.#drain()
    return promise
  }

  async #drain (): Promise<void> {
    this.#isRunning = true
    clearTimeout(this.#retry)
    // Those submitted in the same breath go together from the start.
    await Promise.resolve()
    do {
      // Settles all that wait and are in it, when it succeeds.
      if (this.#owesReplacement) await this.#replaceAll()
      await this.#settle(this.#takeWaiting())
    } while (this.#waiting.length > 0)
    this.#isRunning = false
    if (!this.#owesReplacement || this.#isClosed) return
    this.#retry = setTimeout(() => { void this.#drain() }, this.#retryMs)
    this.#retry.unref()
    this.#retryMs = Math.min(this.#retryMs * 2, maximumRetryMs)
  }

  #takeWaiting (): Change[] {
    const changes = this.#waiting
    this.#waiting = []
    return changes
  }

  /** Never throws: each of the changes is resolved or rejected. */
  async #settle (batch: readonly Change[]): Promise<void> {
    let changes = batch.filter(change => change.commands !== undefined)
    const reloads = batch.filter(change => change.commands === undefined)
    if (reloads.length > 0) {
      const failure = await this.#replaceAll()
      if (failure) await this.#refuse(reloads, [failure.error])
      else changes = resolveContained(batch)
    }
    if (changes.length === 0) return
    const failure = await this.#run(changes)
    if (failure) await this.#settleOneByOne(changes, failure)
    else resolveAll(changes)
  }

  async #settleOneByOne (changes: readonly Change[], together: Failure): Promise<void> {
    let isReplaced = false
    for (const change of changes) {
      if (isReplaced && change.isInFullRules) {
        change.resolve()
        continue
      }
      const failure = changes.length === 1 ? together : await this.#run([change])
      if (!failure) {
        change.resolve()
        continue
      }
      this.#options.logger.warn({ err: failure.error }, 'a change of the packet filter failed; all its rules are replaced')
      let lastFailure = await this.#replaceAll()
      if (!lastFailure) {
        isReplaced = true
        if (!change.isInFullRules) lastFailure = await this.#run([change])
      }
      if (lastFailure) await this.#refuse([change], [failure.error, lastFailure.error])
      else change.resolve()
    }
  }

  async #refuse (changes: readonly Change[], errors: readonly unknown[]): Promise<void> {
    this.#owesReplacement = true
    for (const change of changes) change.reject(refusal(errors))
    // Whoever submitted it takes it back from what is wanted, and then the next replacement may succeed.
    await nextTurn()
  }

  async #run (changes: readonly Change[]): Promise<Failure | undefined> {
    try {
      await this.#options.nftables.run(changes.map(change => change.commands).join('\n'))
    } catch (error) {
      return { error }
    }
  }

  /** What waits at this time is among what is wanted, so it is in force too. */
  async #replaceAll (): Promise<Failure | undefined> {
    const covered = this.#takeWaiting()
    try {
      await this.#options.nftables.run(await this.#options.fullRules())
    } catch (error) {
      this.#options.logger.error({ err: error }, 'the rules of the packet filter could not be replaced; the former ones are in force')
      this.#waiting = [...covered, ...this.#waiting]
      return { error }
    }
    this.#owesReplacement = false
    this.#retryMs = this.#options.retryMs ?? defaultRetryMs
    this.#waiting = [...resolveContained(covered), ...this.#waiting]
    this.#tellOfReload()
  }

  #tellOfReload (): void {
    try {
      this.#options.onReload?.()
    } catch (error) {
      this.#options.logger.error({ err: error }, 'a listener for replaced rules failed')
    }
  }
}

interface Failure {
  error: unknown
}

function resolveAll (changes: readonly Change[]): void {
  for (const change of changes) change.resolve()
}

/** Answers those that a replacement does not contain. */
function resolveContained (changes: readonly Change[]): Change[] {
  resolveAll(changes.filter(change => change.isInFullRules))
  return changes.filter(change => !change.isInFullRules)
}

function refusal (errors: readonly unknown[]): BerthError {
  const cause = errors.length === 1 ? errors[0] : new AggregateError(errors, 'a change of the packet filter failed, and so did replacing all its rules')
  return new BerthError('unavailable', 'packet_filter_failed', 'the packet filter refuses its rules, so the network cannot be had; the log has the cause, and berth doctor may know it', { cause })
}
