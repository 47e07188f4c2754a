import { createHmac, timingSafeEqual } from 'node:crypto'
import { readSecretFile } from '../../../lib/secret-file.ts'

const minKeyBytes = 32
const maxKeyBytes = 4096
const macPattern = /^[0-9a-f]{64}$/

/** What the hosts of a fleet have in common: what one has sealed, the others believe. */
export class IndexKey {
  readonly #secret: Buffer
  /** Tells keys apart without telling the key: it is in the names of what is stored, so that fleets with two keys do not overwrite each other's. */
  readonly id: string

  constructor (secret: Buffer) {
    if (secret.length < minKeyBytes) throw new Error(`a key has at least ${minKeyBytes} bytes`)
    this.#secret = secret
    this.id = this.seal('the name of this key').slice(0, 16)
  }

  /** HMAC-SHA256, in hexadecimal. */
  seal (text: string): string {
    return createHmac('sha256', this.#secret).update(text).digest('hex')
  }

  /** Whether this key has sealed the text; takes the same time whatever the seal is. */
  isSealOf (text: string, seal: string): boolean {
    return macPattern.test(seal) && timingSafeEqual(Buffer.from(this.seal(text), 'hex'), Buffer.from(seal, 'hex'))
  }
}

/**
 * Reads a key file: any 32 to 4096 bytes.
 *
 * @throws Error that says what is wrong with it.
 */
export async function readIndexKey (path: string): Promise<IndexKey> {
  return new IndexKey(await readSecretFile(path, { minBytes: minKeyBytes, maxBytes: maxKeyBytes }))
}
