import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Teardown } from './registry.ts'

interface S3rver {
  httpServer: Server
  logger: { silent: boolean }
  run: () => Promise<AddressInfo>
}

type S3rverClass = new (options: { address: string, port: number, silent: boolean, directory: string, configureBuckets: Array<{ name: string }> }) => S3rver

const require = createRequire(import.meta.url)
const S3rver = require('@20minutes/s3rver') as S3rverClass

/** An S3-compatible server on a free port of 127.0.0.1 that checks signatures; with one bucket. */
export class TestS3Server {
  // The one account that it has.
  static readonly accessKeyId = 'S3RVER'
  static readonly secretAccessKey = 'S3RVER'
  readonly bucket = 'indexes'
  readonly host: string
  readonly #dir: string

  private constructor (host: string, dir: string) {
    this.host = host
    this.#dir = dir
  }

  static async start (t: Teardown): Promise<TestS3Server> {
    const directory = mkdtempSync(join(tmpdir(), 'berth-s3-'))
    const server = new S3rver({ address: '127.0.0.1', port: 0, silent: true, directory, configureBuckets: [{ name: 'indexes' }] })
    // Without transports its logger complains about having none.
    server.logger.silent = true
    const { port } = await server.run()
    t.after(async () => {
      await new Promise(resolve => {
        server.httpServer.close(resolve)
        server.httpServer.closeAllConnections()
      })
      rmSync(directory, { recursive: true, force: true })
    })
    return new TestS3Server(`127.0.0.1:${port}`, directory)
  }

  /** Its objects by key, as the paths of the files that hold them. */
  objects (): Map<string, string> {
    const suffix = '._S3rver_object'
    const bucketDir = join(this.#dir, this.bucket)
    const names = readdirSync(bucketDir, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith(suffix))
    return new Map(names.map(name => [name.slice(0, -suffix.length), join(bucketDir, name)]))
  }
}
