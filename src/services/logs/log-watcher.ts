import { statSync, watch, type FSWatcher } from 'node:fs'
import { LogDirectory, type ReadingResources } from './log-directory.ts'
import { currentLogPath } from './log-files.ts'

/** Where inotify says nothing (its limits are used up, the directory came later), a look once a second is enough. */
const pollIntervalMs = 1000

interface Waiting {
  resume: () => void
  isOver: () => boolean
}

interface Watched {
  version: number
  followers: number
  waiting: Set<Waiting>
  directory: LogDirectory
  fsWatcher: FSWatcher | undefined
  /** What tells one state of the current file from another. */
  lastSeen: string
  poll: NodeJS.Timeout
}

/** Tells that something in a directory may have changed. */
export interface LogSubscription {
  /** Grows with each sign of change. */
  readonly version: number
  readonly directory: LogDirectory
  /** Whether there are others. */
  readonly isShared: boolean
  /** Resolves once the version differs from the given one, within a while of `isOver`, or on abort. */
  changed: (since: number, signal: AbortSignal, isOver: () => boolean) => Promise<void>
  close: () => Promise<void>
}

/** Watches directories for followers: one inotify watch per directory, however many follow there. */
export class LogWatcher {
  readonly #watched = new Map<string, Watched>()
  readonly #resources: ReadingResources

  constructor (resources: ReadingResources) {
    this.#resources = resources
  }

  /** Number of directories that are watched. */
  get size (): number {
    return this.#watched.size
  }

  subscribe (dir: string): LogSubscription {
    const watched = this.#watched.get(dir) ?? this.#open(dir)
    watched.followers++
    let isOpen = true
    return {
      get version () { return watched.version },
      get isShared () { return watched.followers > 1 },
      directory: watched.directory,
      changed: (since, signal, isOver) => changed(watched, since, signal, isOver),
      close: async () => {
        if (!isOpen) return
        isOpen = false
        if (--watched.followers === 0) await this.#close(dir, watched)
      },
    }
  }

  /** Makes the directory's followers look again. */
  wake (dir: string): void {
    const watched = this.#watched.get(dir)
    if (watched) touch(watched)
  }

  #open (dir: string): Watched {
    const watched: Watched = {
      version: 0,
      followers: 0,
      waiting: new Set(),
      directory: new LogDirectory(dir, this.#resources, { keepsFiles: true }),
      fsWatcher: undefined,
      lastSeen: lookAt(dir),
      poll: setInterval(() => { look(dir, watched) }, pollIntervalMs),
    }
    openWatch(dir, watched)
    this.#watched.set(dir, watched)
    return watched
  }

  async #close (dir: string, watched: Watched): Promise<void> {
    clearInterval(watched.poll)
    watched.fsWatcher?.close()
    this.#watched.delete(dir)
    await watched.directory.close()
  }
}

function openWatch (dir: string, watched: Watched): void {
  try {
    const fsWatcher = watch(dir, { persistent: false }, () => { touch(watched) })
    watched.fsWatcher = fsWatcher
    fsWatcher.on('error', () => {
      fsWatcher.close()
      watched.fsWatcher = undefined
    })
  } catch {
    // The poll alone serves then.
  }
}

/** Once in a while: notices what inotify did not say, and who has nothing left to wait for. */
function look (dir: string, watched: Watched): void {
  if (!watched.fsWatcher) openWatch(dir, watched)
  void watched.directory.closeIdle()
  const seen = lookAt(dir)
  if (seen !== watched.lastSeen) {
    watched.lastSeen = seen
    touch(watched)
    return
  }
  for (const waiting of [...watched.waiting]) if (waiting.isOver()) waiting.resume()
}

function lookAt (dir: string): string {
  const found = statSync(currentLogPath(dir), { throwIfNoEntry: false })
  return found ? `${found.ino} ${found.size} ${found.mtimeMs}` : ''
}

function touch (watched: Watched): void {
  watched.version++
  for (const { resume } of [...watched.waiting]) resume()
}

function changed (watched: Watched, since: number, signal: AbortSignal, isOver: () => boolean): Promise<void> {
  if (watched.version !== since || signal.aborted) return Promise.resolve()
  return new Promise(resolve => {
    const waiting = {
      isOver,
      resume: () => {
        watched.waiting.delete(waiting)
        signal.removeEventListener('abort', waiting.resume)
        resolve()
      },
    }
    watched.waiting.add(waiting)
    signal.addEventListener('abort', waiting.resume)
  })
}
