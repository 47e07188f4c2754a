/** A Redis that speaks TLS and wants to see certificates, all made for the one test. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from './free-port.ts'
import { RedisServer } from './redis-server.ts'
import type { Teardown } from './test-daemon.ts'

const run = promisify(execFile)

export interface TlsWorld {
  url: string
  server: RedisServer
  /** Of the one that the server trusts, and has its own certificate from. */
  caFile: string
  certFile: string
  keyFile: string
  /** Of one that nobody trusts. */
  otherCaFile: string
}

export async function startTlsRedis (t: Teardown): Promise<TlsWorld> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-redis-tls-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const at = (name: string): string => join(dir, name)
  for (const name of ['ca', 'other']) {
    await run('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)])
  }
  await writeFile(at('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  for (const name of ['server', 'client']) {
    await run('openssl', ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', `/CN=${name}`, '-keyout', at(`${name}.key`), '-out', at(`${name}.csr`)])
    await run('openssl', ['x509', '-req', '-days', '2', '-in', at(`${name}.csr`), '-CA', at('ca.crt'), '-CAkey', at('ca.key'), '-CAcreateserial', '-extfile', at('names'), '-out', at(`${name}.crt`)])
  }
  const port = await freePort()
  const tls = ['--port', '0', '--tls-port', String(port), '--tls-cert-file', at('server.crt'), '--tls-key-file', at('server.key'), '--tls-ca-cert-file', at('ca.crt'), '--tls-auth-clients', 'yes']
  const server = await RedisServer.start(t, { port, args: tls })
  return { url: `rediss://127.0.0.1:${port}`, server, caFile: at('ca.crt'), certFile: at('client.crt'), keyFile: at('client.key'), otherCaFile: at('other.crt') }
}
