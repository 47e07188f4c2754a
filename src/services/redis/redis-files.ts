/** Passwords and certificates of a Redis, which may be put in their place anew at any time: each connection reads them again. */
import { readFileSync } from 'node:fs'
import type { SecureContextOptions } from 'node:tls'
import type { RedisSettings } from './redis-types.ts'

/** Reads in one go, as what asks for them must be answered at once; the files are small and local. */
export class RedisFiles {
  readonly #settings: Pick<RedisSettings, 'passwordFile' | 'caFile' | 'certFile' | 'keyFile'>
  readonly #onError: (error: unknown) => void
  readonly #last = new Map<string, string>()

  /** @throws Error for a file that cannot be read. Later what was read last serves where one cannot be, and `onError` is told. */
  constructor (settings: Pick<RedisSettings, 'passwordFile' | 'caFile' | 'certFile' | 'keyFile'>, onError: (error: unknown) => void) {
    const { passwordFile, caFile, certFile, keyFile } = settings
    if ((certFile === '') !== (keyFile === '')) throw new Error('a certificate for Redis needs its key, and a key its certificate; set both files')
    this.#settings = settings
    this.#onError = onError
    for (const path of [passwordFile, caFile, certFile, keyFile]) if (path !== '') this.#last.set(path, readFileSync(path, 'utf8'))
  }

  /** undefined: there is no such file. */
  get password (): string | undefined {
    return this.#read(this.#settings.passwordFile)?.trim()
  }

  /** Its fields are read from the files whenever they are looked at. */
  tls (): SecureContextOptions {
    const read = (name: 'caFile' | 'certFile' | 'keyFile'): string | undefined => this.#read(this.#settings[name])
    const options: SecureContextOptions = {}
    for (const [field, name] of [['ca', 'caFile'], ['cert', 'certFile'], ['key', 'keyFile']] as const) {
      if (this.#settings[name] !== '') Object.defineProperty(options, field, { enumerable: true, get: () => read(name) })
    }
    return options
  }

  #read (path: string): string | undefined {
    if (path === '') return undefined
    try {
      this.#last.set(path, readFileSync(path, 'utf8'))
    } catch (error) {
      this.#onError(error)
    }
    return this.#last.get(path)
  }
}
