import { chmod, rm } from 'node:fs/promises'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { createDoor, type DoorOptions } from './door.ts'

export interface RootSocketOptions extends DoorOptions {
  path: string
}

/** The door of root on this host: a unix socket with mode 0600, whose callers need no token. */
export class RootSocket {
  readonly #server: Server
  readonly #path: string
  readonly #connections = new WeakSet<Socket>()

  constructor (options: RootSocketOptions) {
    this.#path = options.path
    this.#server = createDoor(options)
    this.#server.on('connection', socket => this.#connections.add(socket))
  }

  /** Whether a connection came in by this door. */
  has (socket: Socket): boolean {
    return this.#connections.has(socket)
  }

  /** Listens. What lies at the path is a dead daemon's: the lock on the directories says that no live one listens there. */
  async open (): Promise<void> {
    await rm(this.#path, { force: true })
    const umask = process.umask(0o177)
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject)
        this.#server.listen(this.#path, resolve)
      })
    } finally {
      process.umask(umask)
    }
    await chmod(this.#path, 0o600)
  }

  async close (): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()))
    this.#server.closeIdleConnections()
    await closed
    await rm(this.#path, { force: true })
  }
}
