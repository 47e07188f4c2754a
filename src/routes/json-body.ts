/** Reads JSON bodies strictly: what two parsers could understand in two ways is refused. */
import { isUtf8 } from 'node:buffer'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { quoted } from './validation-message.ts'

/** Makes `application/json` the one content type taken; bodies become values, an empty one `undefined`. */
export function addJsonBodies (app: FastifyInstance): void {
  // Refuses `__proto__` and `constructor.prototype` keys.
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  void app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request: FastifyRequest, body: Buffer, done) => {
    if (body.length === 0) return done(null, undefined)
    if (!isUtf8(body)) return done(new BerthError('invalid_argument', 'body_not_utf8', 'the body is not valid UTF-8'))
    const text = body.toString('utf8')
    void parse(request, text, (error, value) => {
      if (error) return done(refusal(text, error))
      const twice = findRepeatedKey(text)
      if (twice !== undefined) return done(new BerthError('invalid_argument', 'body_key_repeated', `the body names ${quoted(twice)} twice in one object`))
      if (/\\u[dD][89a-fA-F]/.test(text) && !isWellFormed(value)) {
        return done(new BerthError('invalid_argument', 'body_not_unicode', 'a string in the body holds half of a surrogate pair'))
      }
      done(null, value)
    })
  })
}

function refusal (text: string, error: Error): BerthError {
  try {
    JSON.parse(text)
  } catch (syntax) {
    const where = /at position (\d+)/.exec((syntax as Error).message)?.[1]
    return new BerthError('invalid_argument', 'body_not_json', `the body is not valid JSON${where === undefined ? '' : ` (at character ${where})`}`, { cause: error })
  }
  return new BerthError('invalid_argument', 'body_key_forbidden', 'the body has a key that is not allowed (__proto__, or prototype in constructor)', { cause: error })
}

/** The first key that occurs twice in one object of a JSON text known to be valid. */
export function findRepeatedKey (text: string): string | undefined {
  const open: Array<Set<string> | undefined> = []
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at)
    if (char === 0x7b) open.push(new Set())
    else if (char === 0x5b) open.push(undefined)
    else if (char === 0x7d || char === 0x5d) open.pop()
    else if (char === 0x22) {
      const end = endOfString(text, at)
      const keys = open.at(-1)
      if (keys && isKey(text, end)) {
        // Through JSON.parse, so that "a" and "\u0061" are the same key.
        const key = JSON.parse(text.slice(at, end + 1)) as string
        if (keys.has(key)) return key
        keys.add(key)
      }
      at = end
    }
  }
  return undefined
}

function endOfString (text: string, start: number): number {
  let end = start
  for (;;) {
    end = text.indexOf('"', end + 1)
    let before = end - 1
    while (text.charCodeAt(before) === 0x5c) before--
    if ((end - 1 - before) % 2 === 0) return end
  }
}

function isKey (text: string, end: number): boolean {
  let next = end + 1
  while (/\s/.test(text[next] ?? '')) next++
  return text[next] === ':'
}

function isWellFormed (value: unknown): boolean {
  if (typeof value === 'string') return value.isWellFormed()
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(([key, inner]) => key.isWellFormed() && isWellFormed(inner))
}
