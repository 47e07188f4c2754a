/** Kills a daemon by SIGKILL at random moments, some of them before it is ready. */
import { rename } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { TestDaemon } from '../support/test-daemon.ts'
import type { Random } from './random.ts'

export interface KillingOptions {
  kills: number
  /** From its readiness to the next kill, in milliseconds. */
  longestLifeMs: number
  /** How many of all starts are killed before they are through; a fifth when absent. */
  killsWhileStartingShare?: number
  onKill?: (kill: number) => void
}

const longestStartMs = 400

/** Kills it, and starts it again, so many times; at the end it runs. Answers how many kills hit one that was not yet ready. */
export async function killAgainAndAgain (daemon: TestDaemon, random: Random, options: KillingOptions): Promise<number> {
  const { killsWhileStartingShare = 0.2 } = options
  let whileStarting = 0
  for (let kill = 1; kill <= options.kills; kill++) {
    const isWhileStarting = random() < killsWhileStartingShare && kill < options.kills
    // Squared: most of what can go wrong happens soon after a start.
    await delay(random() ** 2 * options.longestLifeMs)
    await daemon.end('SIGKILL')
    options.onKill?.(kill)
    // The daemon's log is looked through for its readiness: it begins anew with each life.
    await rename(daemon.logPath, `${daemon.logPath}.${kill}`)
    if (isWhileStarting) {
      const starting = daemon.start().then(() => {}, () => {})
      await delay(random() * longestStartMs)
      await daemon.end('SIGKILL')
      await starting
      kill++
      whileStarting++
      options.onKill?.(kill)
    }
    await daemon.start()
  }
  return whileStarting
}
