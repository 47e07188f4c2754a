import { BerthError } from '../errors.ts'
import type { Image, ImagePage } from '../schemas/image.ts'
import type { BerthClient } from './client.ts'
import { shortDigest } from './pull-display.ts'

const pageSize = 200
const shownCandidates = 5
// Fewer digits are more likely a slip than a wish.
const shortestPrefix = 4

/** All images on the daemon's host, the newest first, one page in memory at a time. */
export async function * listImages (client: BerthClient): AsyncGenerator<Image> {
  let cursor: string | undefined
  do {
    const page = await client.request<ImagePage>('GET', '/v1/images', { query: { limit: pageSize, cursor } })
    yield * page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

/** The digest of the one image that a reference, a digest or the unique beginning of a digest stands for. */
export async function resolveImageDigest (client: BerthClient, text: string): Promise<string> {
  if (/^sha256:[a-f0-9]{64}$/.test(text)) return text
  const named: string[] = []
  const begun: string[] = []
  const prefix = /^(?:sha256:)?([a-f0-9]+)$/.exec(text)?.[1] ?? ''
  const wanted = wholeName(text)
  for await (const { digest, references } of listImages(client)) {
    if (references.some(reference => reference === text || wholeName(reference) === wanted) || text.endsWith(`@${digest}`)) named.push(digest)
    else if (prefix.length >= shortestPrefix && digest.startsWith(`sha256:${prefix}`)) begun.push(digest)
  }
  // A name goes first, as in docker: `beef` may be both.
  const found = named.length > 0 ? named : begun
  if (found.length === 0) throw new BerthError('not_found', 'image_not_found', `no image on this host is '${text}'; see them with: berth images`)
  if (found.length > 1) {
    const more = found.length > shownCandidates ? ` and ${found.length - shownCandidates} more` : ''
    throw new BerthError('conflict', 'ambiguous_image', `'${text}' stands for ${found.slice(0, shownCandidates).map(shortDigest).join(', ')}${more}; give the digest of one`)
  }
  return found[0]!
}

/** A registry reference with all that docker lets one leave out: `alpine` → `docker.io/library/alpine:latest`. */
function wholeName (text: string): string {
  const [, host = 'docker.io/', path = text] = /^([^/]*[.:][^/]*\/|localhost\/)(.*)$/.exec(text) ?? []
  const name = host === 'docker.io/' && !path.includes('/') ? `library/${path}` : path
  return `${host}${name}${/[:@]/.test(name) ? '' : ':latest'}`
}
