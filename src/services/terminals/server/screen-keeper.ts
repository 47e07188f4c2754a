import { Worker } from 'node:worker_threads'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import { errorFromFacts } from '../../../lib/error-facts.ts'
import type { Screen } from './pty-protocol.ts'
import { screenControl, type FromScreens, type ScreenPlace, type ScreenWorkerSettings, type ToScreens } from './screen-messages.ts'

// Nobody looks at a screen file the moment it could be written; a screen that is asked for waits for none of this. What comes faster than
// the thread takes between two of these is mostly skipped, so a flood costs it no more than a stream.
const paceMs = 100
const restartMs = 500
const maxDeathsPerTerminal = 2
const heapMiB = 512
// Where a thread takes over from one that died: as much as it keeps when it skips forward.
const resumedBytes = 256 * 1024

interface KeptScreen extends ScreenPlace {
  /** Told to the thread; -1 where the thread has never heard of it. */
  toldOffset: number
  newSize: { offset: number, cols: number, rows: number } | undefined
  deaths: number
}

/**
 * Keeps the screens of terminals in a thread of its own, which reads their output from their files: nobody waits for it. A thread that dies
 * is replaced, and a terminal whose output kills it twice has no screen any more.
 */
export class ScreenKeeper {
  readonly #logger: Pick<Logger, 'error' | 'warn'>
  readonly #control = new Int32Array(new SharedArrayBuffer(4))
  readonly #screens = new Map<string, KeptScreen>()
  readonly #dirty = new Set<KeptScreen>()
  readonly #requests = new Map<number, PromiseWithResolvers<Screen>>()
  #order: string[] = []
  #worker: Worker | undefined
  #pacer: NodeJS.Timeout | undefined
  #restart: NodeJS.Timeout | undefined
  #lastRequest = 0
  #isClosed = false

  constructor ({ logger }: { logger: Pick<Logger, 'error' | 'warn'> }) {
    this.#logger = logger
  }

  /** Starts the thread. */
  start (): void {
    Atomics.store(this.#control, screenControl.current, -1)
    const workerData: ScreenWorkerSettings = { control: this.#control }
    const worker = new Worker(new URL('./screen-worker.ts', import.meta.url), { workerData, name: 'screens', resourceLimits: { maxOldGenerationSizeMb: heapMiB } })
    worker.on('message', (message: FromScreens) => this.#settle(message))
    worker.on('error', (error: unknown) => this.#logger.error({ err: error }, 'the thread that keeps screens has failed'))
    worker.on('exit', () => this.#replace())
    this.#worker = worker
    this.#order = []
    for (const screen of this.#screens.values()) this.#introduce(screen)
  }

  /** Follows a terminal from its `offset` on. */
  add (place: ScreenPlace): void {
    const screen = { ...place, toldOffset: -1, newSize: undefined, deaths: 0 }
    this.#screens.set(place.id, screen)
    this.#introduce(screen)
  }

  /** Its files hold output up to there. */
  advance (id: string, offset: number): void {
    const screen = this.#screens.get(id)
    if (!screen) return
    screen.offset = offset
    this.#dirty.add(screen)
    this.#pacer ??= setTimeout(this.#tellAll, paceMs)
  }

  /** From `offset` on it has this size. */
  resize (id: string, offset: number, cols: number, rows: number): void {
    const screen = this.#screens.get(id)
    if (!screen) return
    screen.newSize = { offset, cols, rows }
    this.#dirty.add(screen)
    this.#pacer ??= setTimeout(this.#tellAll, paceMs)
  }

  /** What it shows at this offset, which is that of all its output. @throws BerthError unavailable `screen_unavailable` */
  async screen (id: string, offset: number): Promise<Screen> {
    const screen = this.#screens.get(id)
    if (!screen || !this.#worker || screen.deaths >= maxDeathsPerTerminal) throw unavailable()
    this.#tell(screen)
    const request = ++this.#lastRequest
    const answer = Promise.withResolvers<Screen>()
    this.#requests.set(request, answer)
    this.#post({ kind: 'screen', request, id, offset })
    return await answer.promise
  }

  /** There is no output behind `offset`; what it shows there becomes the screen file of that offset soon. */
  end (id: string, offset: number): void {
    const screen = this.#screens.get(id)
    if (!screen) return
    this.#tell(screen)
    this.#post({ kind: 'end', id, offset })
  }

  remove (id: string): void {
    const screen = this.#screens.get(id)
    if (!screen) return
    this.#screens.delete(id)
    this.#dirty.delete(screen)
    this.#post({ kind: 'remove', id })
  }

  async close (): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#pacer)
    clearTimeout(this.#restart)
    await this.#worker?.terminate()
  }

  #introduce (screen: KeptScreen): void {
    if (!this.#worker || screen.deaths >= maxDeathsPerTerminal) return
    const { id, dir, cols, rows } = screen
    const offset = Math.max(0, screen.offset - resumedBytes)
    this.#order.push(id)
    this.#post({ kind: 'add', place: { id, dir, cols, rows, offset } })
    screen.toldOffset = offset
    if (screen.offset > offset) this.advance(id, screen.offset)
  }

  readonly #tellAll = (): void => {
    this.#pacer = undefined
    for (const screen of this.#dirty) this.#tell(screen)
  }

  #tell (screen: KeptScreen): void {
    this.#dirty.delete(screen)
    const { id, newSize, offset } = screen
    if (newSize) {
      Object.assign(screen, { cols: newSize.cols, rows: newSize.rows, newSize: undefined })
      this.#post({ kind: 'resize', id, ...newSize })
    }
    if (offset <= screen.toldOffset) return
    screen.toldOffset = offset
    this.#post({ kind: 'advance', id, offset })
  }

  #post (message: ToScreens): void {
    this.#worker?.postMessage(message)
  }

  #settle (message: FromScreens): void {
    const request = this.#requests.get(message.request)
    this.#requests.delete(message.request)
    if (message.kind === 'screen') request?.resolve(message.screen)
    else request?.reject(errorFromFacts(message.error))
  }

  #replace (): void {
    this.#worker = undefined
    for (const request of this.#requests.values()) request.reject(unavailable())
    this.#requests.clear()
    if (this.#isClosed) return
    const culprit = this.#screens.get(this.#order[Atomics.load(this.#control, screenControl.current)] ?? '')
    if (culprit && ++culprit.deaths >= maxDeathsPerTerminal) this.#logger.warn({ terminalId: culprit.id }, 'the screen of a terminal is given up')
    this.#restart = setTimeout(() => this.start(), restartMs)
  }
}

function unavailable (): BerthError {
  return new BerthError('unavailable', 'screen_unavailable', 'the screen of this terminal cannot be had at the moment; read its output, or try again')
}
