import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'

const cipher = 'aes-256-gcm'
// 96 bits, which GCM wants, and random: one key may seal 2^32 secrets so, NIST SP 800-38D.
const nonceBytes = 12
const tagBytes = 16
const keyInfo = 'berth gateway: tokens of workers, version 1'
const form = /^v1\.([A-Za-z0-9_-]+)$/

/**
 * Keeps secrets where others can read them: sealed with AES-256-GCM under a key that follows from the fleet's admin token by HKDF-SHA256.
 * What is sealed for one owner does not open for another.
 */
export class SecretSealer {
  readonly #key: Buffer

  constructor (masterSecret: string) {
    this.#key = Buffer.from(hkdfSync('sha256', masterSecret, '', keyInfo, 32))
  }

  /** `v1.`, then nonce, text and tag in base64url. */
  seal (secret: string, owner: string): string {
    const nonce = randomBytes(nonceBytes)
    const sealing = createCipheriv(cipher, this.#key, nonce, { authTagLength: tagBytes }).setAAD(Buffer.from(owner))
    return `v1.${Buffer.concat([nonce, sealing.update(secret, 'utf8'), sealing.final(), sealing.getAuthTag()]).toString('base64url')}`
  }

  /** Undefined: it was sealed for somebody else, with another key, or by nobody. */
  open (sealed: string, owner: string): string | undefined {
    const bytes = Buffer.from(form.exec(sealed)?.[1] ?? '', 'base64url')
    if (bytes.length < nonceBytes + tagBytes) return undefined
    const opening = createDecipheriv(cipher, this.#key, bytes.subarray(0, nonceBytes), { authTagLength: tagBytes })
      .setAAD(Buffer.from(owner)).setAuthTag(bytes.subarray(-tagBytes))
    try {
      return Buffer.concat([opening.update(bytes.subarray(nonceBytes, -tagBytes)), opening.final()]).toString('utf8')
    } catch {
      return undefined
    }
  }
}
