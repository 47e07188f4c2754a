import { createHash } from 'node:crypto'

const digestPattern = /^sha256:([0-9a-f]{64})$/

/** `sha256:<hex>` of some content. */
export function digestOf (content: Buffer | string): string {
  return `sha256:${createHash('sha256').update(content).digest('hex')}`
}

/** The hexadecimal digits of a digest, which may stand in a path. Throws for anything else. */
export function hexOf (digest: string): string {
  const hex = digestPattern.exec(digest)?.[1]
  if (hex === undefined) throw new Error('this is not a sha256 digest')
  return hex
}
