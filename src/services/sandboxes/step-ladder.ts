import type { Logger } from 'pino'
import { withDeadline } from '../../lib/deadline.ts'
import type { StepTiming } from '../../schemas/sandbox.ts'
import { activeSpan, inChildSpan } from '../tracing/span.ts'
import type { SandboxRecord } from './sandbox-record.ts'
import type { SandboxStep, SetUpRequest } from './sandbox-steps.ts'

export interface StepLadderOptions {
  steps: readonly SandboxStep[]
  logger: Logger
  /** Lets through as many runs at once as the host can set up well. What a sandbox's image needs, which may wait for a registry, is not held up by it. */
  gate: <T>(work: () => Promise<T>) => Promise<T>
  /** Told when a resource could not be released. */
  onLeak: (record: SandboxRecord, step: string) => void
}

/** Which step failed, with the step's own error as the cause. */
export class StepError extends Error {
  readonly step: string
  constructor (step: string, cause: unknown) {
    super(`the step ${step} failed`, { cause })
    this.name = 'StepError'
    this.step = step
  }
}

const releaseDeadlineMs = 60_000

/** Climbs the set-up steps and comes down again: every release runs, and what fails is in the record as a leak. */
export class StepLadder {
  readonly #options: StepLadderOptions

  constructor (options: StepLadderOptions) {
    this.#options = options
  }

  /**
   * Acquires each step (scope `all`), or those of one run (scope `run`: the others are held already). Releases nothing.
   * @throws StepError
   */
  async acquire (record: SandboxRecord, scope: 'run' | 'all', request: SetUpRequest = {}): Promise<void> {
    const { steps, gate } = this.#options
    record.timings = []
    const climb = async (wanted: SandboxStep['scope']) => {
      for (const step of steps.filter(candidate => candidate.scope === wanted)) {
        await timed(record.timings, step.name, () => withDeadline(step.deadlineMs, `the step ${step.name}`, signal => step.acquire(record, signal, request)))
      }
    }
    if (scope === 'all') await climb('sandbox')
    await gate(() => climb('run'))
  }

  /** Releases, newest first, what a run holds (scope `run`) or all. */
  async release (record: SandboxRecord, scope: 'run' | 'all'): Promise<void> {
    record.leaks = []
    for (const step of [...this.#options.steps].reverse()) {
      if (step.scope === 'run' ? !record.holdsRun : scope === 'run') continue
      const startedMs = performance.now()
      try {
        await withDeadline(releaseDeadlineMs, `the release of ${step.name}`, () => step.release(record))
        this.#options.logger.debug({ sandboxId: record.id, step: step.name, durationMs: roundMs(performance.now() - startedMs) }, 'a step was released')
      } catch (error) {
        this.leak(record, step.name, error)
      }
    }
    if (record.leaks.length === 0) record.holdsRun = undefined
  }

  leak (record: SandboxRecord, step: string, error: unknown): void {
    record.leaks.push({ step, message: `the release of ${step} failed and will be tried again` })
    this.#options.logger.warn({ sandboxId: record.id, step, err: error }, 'a resource could not be released')
    this.#options.onLeak(record, step)
  }
}

/** Runs a step and notes how long it took, also in the trace that asked for it. @throws StepError */
export async function timed (timings: StepTiming[], step: string, work: () => Promise<void>): Promise<void> {
  const startedMs = performance.now()
  try {
    await inChildSpan(activeSpan(), `sandbox.setup.${step}`, work)
  } catch (error) {
    throw new StepError(step, error)
  }
  timings.push({ step, durationMs: roundMs(performance.now() - startedMs) })
}

function roundMs (durationMs: number): number {
  return Math.round(durationMs * 100) / 100
}
