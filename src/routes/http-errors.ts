/** The one place where errors become answers: always the same body, its status from the error's kind. */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError, errorKinds, toBerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import { ErrorBody } from '../schemas/wire.ts'
import { quoted, validationError, type RequestPart } from './validation-message.ts'

/** Codes for which HTTP has a more exact status than their kind's. */
const statusByCode: Record<string, number> = {
  method_not_allowed: 405,
  request_too_slow: 408,
  body_too_large: 413,
  url_too_long: 414,
  unsupported_content_type: 415,
  unsupported_content_encoding: 415,
  range_not_satisfiable: 416,
  upgrade_required: 426,
  headers_too_large: 431,
  port_not_listening: 502,
  port_answer_invalid: 502,
  port_unreachable: 504,
}

/** The HTTP status of an error. */
export function statusOf (error: BerthError): number {
  return statusByCode[error.code] ?? errorKinds[error.kind].http
}

/** The body of an error answer. */
export function errorBody (error: BerthError, requestId: string): ErrorBody {
  return { code: error.code, kind: error.kind, message: error.message, requestId, ...(error.details ? { details: error.details } : {}) }
}

const meanings: Record<number, string> = {
  400: 'The request is wrong; the message says where',
  401: 'The bearer token is missing or not known',
  403: 'The token may not do this',
  404: 'There is no such thing',
  405: 'The path does not take this method; Allow says which it takes',
  409: 'Not possible in the present state, or the Idempotency-Key is taken',
  408: 'The request stood still for too long',
  413: 'The body is too large',
  415: 'The body is not of a type, or a coding, that is taken here: JSON, where nothing else is said',
  416: 'The range begins behind the end; Content-Range says where that is',
  426: 'This path is a WebSocket',
  429: 'No room for it at the moment; try again later',
  499: 'The client went away',
  500: 'Something went wrong inside; the log has it under the requestId',
  503: 'Not ready for this at the moment; try again',
  504: 'It did not happen in time',
}

/** Response schemas for the statuses given and for those that any route may answer. */
export function errorResponses (...statuses: number[]): Record<number, ReturnType<typeof ref>> {
  const all = [...new Set([400, 401, 403, 500, 503, ...statuses])].sort((a, b) => a - b)
  return Object.fromEntries(all.map(status => [status, ref(ErrorBody, { description: meanings[status] ?? STATUS_CODES[status]! })]))
}

/** Response schemas of the statuses that more often speak of the image than of the request, where one is asked for. */
export const imageProblems = Object.fromEntries(Object.entries({
  400: 'The request is wrong; or image_not_found: there is no such repository, tag or digest; image_invalid: it is there and cannot be used; invalid_image_reference. The message says what to do',
  403: 'The token may not do this; or image_auth_required: the registry wants credentials, or refuses those it was given',
  429: 'No room for it at the moment; disk_full: none for the image',
  503: 'Not ready for this at the moment; or registry_unavailable: the registry cannot be reached or does not answer in time. Try again',
}).map(([status, description]) => [status, ref(ErrorBody, { description })]))

export interface ErrorAnswerOptions {
  closing: AbortSignal
  bodyBytes: number
}

/** Installs the error handler, the not-found handler and the validation messages. */
export function addErrorAnswers (app: FastifyInstance, options: ErrorAnswerOptions): void {
  const routes = rememberRoutes(app)
  app.setSchemaErrorFormatter((findings, part) => validationError(findings, part as RequestPart))
  app.setErrorHandler((error, request, reply) => answerError(error, request, reply, options))
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0]!
    const methods = routes.methodsOf(path)
    if (methods.length === 0) throw new BerthError('not_found', 'route_not_found', `there is no ${request.method} ${quoted(path)}; /docs lists what there is`)
    reply.header('allow', methods.join(', '))
    throw new BerthError('invalid_argument', 'method_not_allowed', `${quoted(path)} does not take ${request.method}, only ${methods.join(', ')}`, { details: { allow: methods } })
  })
}

/** Answers with an error; also for what fails before a route is found. */
export function answerError (error: unknown, request: FastifyRequest, reply: FastifyReply, options: ErrorAnswerOptions): FastifyReply {
  const known = classify(error, request, options)
  if (known.kind === 'internal') request.log.error({ err: known.cause ?? known, code: known.code }, 'request failed')
  else if (known.cause !== undefined) request.log.info({ err: known.cause, code: known.code }, 'request refused')
  if (known.kind === 'unauthenticated') reply.header('www-authenticate', 'Bearer realm="berth"')
  if (known.code === 'range_not_satisfiable') reply.header('content-range', `bytes */${known.details?.['sizeBytes'] ?? '*'}`)
  if (errorKinds[known.kind].retryable) reply.header('retry-after', retryAfterSeconds(known))
  return reply.code(statusOf(known)).header('content-type', 'application/json; charset=utf-8').send(errorBody(known, request.id))
}

function classify (error: unknown, request: FastifyRequest, options: ErrorAnswerOptions): BerthError {
  if (error instanceof BerthError) return error
  const { code, name } = error as FastifyError
  if (name === 'AbortError') {
    return options.closing.aborted ? stoppingReason(options.closing) : new BerthError('cancelled', 'client_gone', 'the client went away before the answer')
  }
  switch (code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new BerthError('invalid_argument', 'unsupported_content_type', 'the body must be JSON: send Content-Type: application/json')
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new BerthError('invalid_argument', 'body_too_large', `the body is larger than ${options.bodyBytes} bytes`, { details: { limit: options.bodyBytes } })
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new BerthError('invalid_argument', 'body_incomplete', 'the body does not have the length that Content-Length says')
    case 'FST_ERR_BAD_URL':
      return new BerthError('invalid_argument', 'invalid_url', 'the path is not a valid URL path')
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new BerthError('not_found', 'route_not_found', `there is no ${quoted(request.url)}`)
    default:
      return toBerthError(error)
  }
}

/** What a request that the daemon's end interrupts is told. */
export function hostStopping (): BerthError {
  return new BerthError('unavailable', 'host_stopping', 'the daemon is shutting down; sandboxes go on, try again when it is back')
}

/** `details.retryAfterMs` says it where it is known. */
function retryAfterSeconds ({ details }: BerthError): string {
  const { retryAfterMs } = details ?? {}
  return typeof retryAfterMs === 'number' ? String(Math.max(1, Math.ceil(retryAfterMs / 1000))) : '1'
}

/** Why an end was asked for, where that is for clients to know. */
function stoppingReason ({ reason }: AbortSignal): BerthError {
  return reason instanceof BerthError ? reason : hostStopping()
}

/** Keeps each registered path with its methods, to tell a wrong method from a wrong path. */
function rememberRoutes (app: FastifyInstance) {
  const seen = new Map<string, Set<string>>()
  app.addHook('onRoute', route => {
    const methods = seen.get(route.url) ?? new Set()
    for (const method of [route.method].flat()) methods.add(method)
    seen.set(route.url, methods)
  })
  return {
    methodsOf (path: string): string[] {
      const parts = path.split('/')
      const matching = [...seen].filter(([url]) => matches(url.split('/'), parts))
      return [...new Set(matching.flatMap(([, methods]) => [...methods]))].sort()
    },
  }
}

function matches (pattern: string[], parts: string[]): boolean {
  return pattern.length === parts.length && pattern.every((part, index) => part.startsWith(':') || part === parts[index])
}

/** Answers on a bare socket what Node's HTTP parser refuses: malformed requests, too large heads, slow clients. */
export function answerClientError (error: Error & { code?: string }, socket: Socket, newRequestId: () => string): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) return void socket.destroy()
  const known = rawRefusal(error.code)
  const status = statusOf(known)
  const body = JSON.stringify(errorBody(known, newRequestId()))
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`)
}

function rawRefusal (code: string | undefined): BerthError {
  if (code === 'HPE_HEADER_OVERFLOW') return new BerthError('invalid_argument', 'headers_too_large', 'the URL and headers are too large together')
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return new BerthError('timed_out', 'request_too_slow', 'the request did not arrive in time')
  return new BerthError('invalid_argument', 'malformed_request', 'this is not a valid HTTP/1.1 request')
}
