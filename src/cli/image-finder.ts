import { BerthError } from '../errors.ts'
import type { Image, ImagePage } from '../schemas/image.ts'
import type { BerthClient } from './client.ts'
import { shortDigest } from './pull-display.ts'

const pageSize = 200
const shownCandidates = 5
// Fewer digits are more likely a slip than a wish.
const shortestPrefix = 4

/** The images on the daemon's host, the newest first, one page in memory at a time; with a reference those it names. */
export async function * listImages (client: BerthClient, query: { reference?: string } = {}): AsyncGenerator<Image> {
  let cursor: string | undefined
  do {
    const page = await client.request<ImagePage>('GET', '/v1/images', { query: { ...query, limit: pageSize, cursor } })
    yield * page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

/** The digest of the one image that a reference, a digest or the unique beginning of a digest stands for. */
export async function resolveImageDigest (client: BerthClient, text: string): Promise<string> {
  if (/^sha256:[a-f0-9]{64}$/.test(text)) return text
  const found: string[] = []
  // A name goes first, as in docker: `beef` may be both.
  for await (const { digest } of listImages(client, { reference: text })) found.push(digest)
  const prefix = /^(?:sha256:)?([a-f0-9]+)$/.exec(text)?.[1] ?? ''
  if (found.length === 0 && prefix.length >= shortestPrefix) {
    for await (const { digest } of listImages(client)) if (digest.startsWith(`sha256:${prefix}`)) found.push(digest)
  }
  if (found.length === 0) throw new BerthError('not_found', 'image_not_found', `no image on this host is '${text}'; see them with: berth images`)
  if (found.length > 1) {
    const more = found.length > shownCandidates ? ` and ${found.length - shownCandidates} more` : ''
    throw new BerthError('conflict', 'ambiguous_image', `'${text}' stands for ${found.slice(0, shownCandidates).map(shortDigest).join(', ')}${more}; give the digest of one`)
  }
  return found[0]!
}

/** A reference without what docker leaves out when it shows one: docker.io/library/alpine:3 → alpine:3. */
export function familiarName (reference: string): string {
  return reference.replace(/^docker\.io\/(library\/(?=[^/]*$))?/, '')
}
