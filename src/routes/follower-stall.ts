import type { ServerResponse } from 'node:http'

/** Looked at this often within the time, so that it is late by no more than a fifth. */
const looksPerStall = 5

/**
 * Breaks an answer off whose client takes nothing for so long while something waits for it: HTTP has no other word for it. What goes out
 * in one write, some 64 KiB, counts when all of it is taken.
 */
export function cutOffStalled (response: ServerResponse, stallMs: number): void {
  let taken = 0
  let idleLooks = 0
  const timer = setInterval(() => {
    const { socket } = response
    if (!socket) return
    const takenNow = socket.bytesWritten - socket.writableLength
    const isStuck = socket.writableLength > 0 && takenNow === taken
    taken = takenNow
    idleLooks = isStuck ? idleLooks + 1 : 0
    if (idleLooks >= looksPerStall) socket.destroy()
  }, stallMs / looksPerStall)
  timer.unref()
  response.once('close', () => clearInterval(timer))
}
