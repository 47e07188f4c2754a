import type { Logger } from 'pino'
import { readExitCode, watchExit } from '../../host/conmon.ts'

/** Waits for the exit code that a monitor writes, by event. */
export class ExitWatch {
  /** Resolves when the exit code is there; never rejects. */
  readonly exited: Promise<void>
  readonly #close: () => void

  constructor (options: { exitDir: string, sandboxId: string, logger: Logger }) {
    const { exitDir, sandboxId, logger } = options
    const exited = Promise.withResolvers<void>()
    this.exited = exited.promise
    const look = async () => {
      if (await readExitCode(exitDir, sandboxId) !== undefined) exited.resolve()
    }
    const guardedLook = () => { void look().catch(error => logger.error({ sandboxId, err: error }, 'an exit code could not be read')) }
    this.#close = watchExit(exitDir, guardedLook)
    // It may have come before the watch began.
    guardedLook()
  }

  close (): void {
    this.#close()
  }
}
