/** The bodies of answers, on their way to the client. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pairs } from './preview-headers.ts'
import { divert, pourInto } from './program-socket.ts'

/** A connection is given up for each of these: that must be small beside it. */
const largeAnswerBytes = 1024 ** 2
/** Twice what comes in one read otherwise; more made little faster, and a sandbox may have hundreds at once. */
const pouredAtOnceBytes = 128 * 1024

/** Ends when the answer is out; rejects when either side breaks it off. */
export function sendAnswer (answer: IncomingMessage, response: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const bytes = poursBytes(answer, response)
    const pour = bytes > 0 ? pourAnswer(answer, response, bytes) : undefined
    const onBroken = () => { if (!answer.complete && pour?.isOver !== true) reject(new Error('the program broke off its answer')) }
    for (const event of ['error', 'close']) answer.on(event, onBroken)
    response.once('error', reject)
    response.once('finish', resolve)
    response.once('close', () => response.writableFinished ? resolve() : reject(new Error('the client went away')))
    if (pour) return
    answer.pipe(response, { end: false })
    answer.once('end', () => {
      if (answer.rawTrailers.length > 0) response.addTrailers([...pairs(answer.rawTrailers)])
      response.end()
    })
  })
}

/** The length of a body that is to be poured; 0 of one that goes the usual way. */
function poursBytes (answer: IncomingMessage, response: ServerResponse): number {
  const bytes = Number(answer.headers['content-length'] ?? 0)
  const hasBody = response.req.method !== 'HEAD' && answer.statusCode !== 204 && answer.statusCode !== 304
  return hasBody && bytes >= largeAnswerBytes ? bytes : 0
}

/**
 * Sends a body of known length without parsing it: what was read goes out from where it lies. Its connection is of no further use then,
 * since Node's parser was not told of its end.
 */
function pourAnswer (answer: IncomingMessage, response: ServerResponse, bytes: number): { isOver: boolean } {
  const { socket } = answer
  const pour = { isOver: false }
  let left = bytes
  const pass = pourInto(response, socket)
  const take = (chunk: Buffer): boolean => {
    if (pour.isOver) return false
    const part = chunk.length > left ? chunk.subarray(0, left) : chunk
    left -= part.length
    const isOut = pass(part)
    if (left > 0) return isOut
    pour.isOver = true
    response.end()
    socket.destroy()
    return false
  }
  // What came along with the head.
  answer.on('data', take)
  divert(socket, take, pouredAtOnceBytes)
  return pour
}
