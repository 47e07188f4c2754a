/** Ranges and conditions of a GET (RFC 9110, sections 13 and 14), as far as files need them. */
import type { IncomingHttpHeaders } from 'node:http'

export type ByteRange = { first: number, last?: number } | { suffix: number }

/** The one range that is asked for. Several, and what is no range, count as none: then all is answered, as the standard allows. */
export function parseRange (header: string | undefined): ByteRange | undefined {
  const [, first, last] = /^bytes=(\d{0,15})-(\d{0,15})$/i.exec(header?.replaceAll(/[ \t]/g, '') ?? '') ?? []
  if (first === undefined || last === undefined || (first === '' && last === '')) return undefined
  if (first === '') return { suffix: Number(last) }
  if (last === '') return { first: Number(first) }
  return Number(last) < Number(first) ? undefined : { first: Number(first), last: Number(last) }
}

/** Whether If-None-Match names what there is: then nothing need be sent. */
export function isKnown (headers: IncomingHttpHeaders, etag: string): boolean {
  const known = headers['if-none-match']
  return known !== undefined && (known.trim() === '*' || known.split(',').some(one => one.trim().replace(/^W\//, '') === etag))
}

/** Whether a range is wanted of what there is, and all of it else: If-Range names what the client has a part of. */
export function isRangeCurrent (ifRange: string, current: { etag: string, modifiedAt: Date }): boolean {
  if (ifRange.startsWith('"') || ifRange.startsWith('W/')) return ifRange === current.etag
  return Date.parse(ifRange) === Math.floor(current.modifiedAt.getTime() / 1000) * 1000
}
