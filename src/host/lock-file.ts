import { open, type FileHandle } from 'node:fs/promises'
import { BerthError } from '../errors.ts'
import { tryLock } from './libc.ts'

/** A lock that one process holds: flock(2) on a file with its pid. The kernel drops it whatever ends the process. */
export class LockFile {
  readonly #file: FileHandle

  private constructor (file: FileHandle) {
    this.#file = file
  }

  /** @throws BerthError conflict `already_running` with the holder's pid. */
  static async acquire (path: string, what: string): Promise<LockFile> {
    const file = await open(path, 'a+', 0o600)
    if (!tryLock(file.fd)) {
      const holder = (await file.readFile('latin1')).trim()
      await file.close()
      throw new BerthError('conflict', 'already_running', `another daemon (pid ${holder || 'unknown'}) holds ${what}; stop it, or give this one other directories`)
    }
    await file.truncate(0)
    await file.write(`${process.pid}\n`, 0)
    return new LockFile(file)
  }

  async release (): Promise<void> {
    await this.#file.close()
  }
}
