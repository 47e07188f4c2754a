import { watch, type FSWatcher } from 'node:fs'

/** Where inotify says nothing (its limits are used up, the directory came later), a look once a second is enough. */
const pollIntervalMs = 1000

interface Watched {
  version: number
  followers: number
  waiting: Set<() => void>
  fsWatcher: FSWatcher | undefined
  poll: NodeJS.Timeout
}

/** Tells that something in a directory may have changed. */
export interface LogSubscription {
  /** Grows with each sign of change. */
  readonly version: number
  /** Resolves once the version differs from the given one, or on abort. */
  changed: (since: number, signal: AbortSignal) => Promise<void>
  close: () => void
}

/** Watches directories for followers: one inotify watch per directory, however many follow there. */
export class LogWatcher {
  readonly #watched = new Map<string, Watched>()

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
      changed: (since, signal) => changed(watched, since, signal),
      close: () => {
        if (!isOpen) return
        isOpen = false
        if (--watched.followers === 0) this.#close(dir, watched)
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
      fsWatcher: undefined,
      poll: setInterval(() => { touch(watched) }, pollIntervalMs),
    }
    try {
      watched.fsWatcher = watch(dir, { persistent: false }, () => { touch(watched) })
      watched.fsWatcher.on('error', () => { watched.fsWatcher?.close() })
    } catch {
      // The poll alone serves then.
    }
    this.#watched.set(dir, watched)
    return watched
  }

  #close (dir: string, watched: Watched): void {
    clearInterval(watched.poll)
    watched.fsWatcher?.close()
    this.#watched.delete(dir)
  }
}

function touch (watched: Watched): void {
  watched.version++
  for (const resume of [...watched.waiting]) resume()
}

function changed (watched: Watched, since: number, signal: AbortSignal): Promise<void> {
  if (watched.version !== since || signal.aborted) return Promise.resolve()
  return new Promise(resolve => {
    const resume = () => {
      watched.waiting.delete(resume)
      signal.removeEventListener('abort', resume)
      resolve()
    }
    watched.waiting.add(resume)
    signal.addEventListener('abort', resume)
  })
}
