/** Wakes those who wait until something has changed. What it was they look up themselves, so none holds a queue. */
export class ChangeSignal {
  readonly #waiting = new Set<() => void>()

  notify (): void {
    for (const resume of [...this.#waiting]) resume()
  }

  /** Until the next `notify`, or until the signal is aborted; never fails. */
  wait (signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve()
    return new Promise(resolve => {
      const resume = () => {
        this.#waiting.delete(resume)
        signal.removeEventListener('abort', resume)
        resolve()
      }
      this.#waiting.add(resume)
      signal.addEventListener('abort', resume)
    })
  }
}
