import type { FastifyInstance } from 'fastify'
import { answerClientError } from './http-errors.ts'

/**
 * Bounds how long a client may take to send a body, as the servers bound the head. The servers' own bound for the whole
 * would also be one for what is sent to previews, which may take as long as it likes.
 */
export function addBodyDeadline (app: FastifyInstance, timeoutMs: number): void {
  app.addHook('preParsing', async request => {
    // A route that reads the body itself knows when that stands still: how long the whole may take is not for us to say.
    if (request.routeOptions.config.hasRawBody) return
    const { raw } = request
    if (raw.complete || (raw.headers['transfer-encoding'] === undefined && (raw.headers['content-length'] ?? '0') === '0')) return
    const late = Object.assign(new Error('the body did not arrive in time'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' })
    const timer = setTimeout(() => { if (!raw.complete) answerClientError(late, raw.socket, () => request.id) }, timeoutMs)
    timer.unref()
    for (const event of ['end', 'close']) raw.once(event, () => clearTimeout(timer))
  })
}
