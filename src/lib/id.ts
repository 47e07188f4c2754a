import { randomBytes } from 'node:crypto'

const alphabet = '0123456789abcdefghijklmnopqrstuv'
const length = 20

/** A random id of 100 bits: a kind, an underscore, 20 characters of [0-9a-v], usable in host names and file names. */
export function randomId (kind: string): string {
  const bytes = randomBytes(length)
  let text = ''
  for (const byte of bytes) text += alphabet[byte & 31]
  return `${kind}_${text}`
}
