/** Thrown when a bounded piece of work did not end in time. */
export class DeadlineError extends Error {
  readonly timeoutMs: number
  constructor (what: string, timeoutMs: number) {
    super(`${what} did not end within ${timeoutMs} ms`)
    this.name = 'DeadlineError'
    this.timeoutMs = timeoutMs
  }
}

/** Runs work with a deadline. Late work is told by the signal; its outcome after the deadline is ignored. */
export async function withDeadline<T> (timeoutMs: number, what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      const error = new DeadlineError(what, timeoutMs)
      controller.abort(error)
      reject(error)
    }, timeoutMs)
  })
  try {
    return await Promise.race([work(controller.signal), late])
  } finally {
    clearTimeout(timer)
  }
}
