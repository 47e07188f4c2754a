/** A gateway over a real socket, what a host needs to reach it, and certificates. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { GatewayClient, type GatewayClientOptions, type WorkerFacts } from '../../../src/worker/gateway-client.ts'
import { FakeGateway, gatewayToken } from '../../support/fake-gateway.ts'

export const hostFacts: WorkerFacts = {
  hostname: 'box',
  pool: 'gpu',
  capacity: { cpuMillis: 4000, memoryBytes: 64 * 1024 ** 3 },
  free: { cpuMillis: 2500.5, memoryBytes: 2 ** 45 },
  version: '0.1.0',
  labels: { zone: 'a' },
  apiUrl: 'https://10.0.0.7:7070',
  apiCa: 'PEM',
  sandboxes: 3,
  tasks: 2,
}

export async function buildGateway (t: TestContext, { isOld = false } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-gateway-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const tokenFile = join(dir, 'token')
  writeFileSync(tokenFile, `${gatewayToken}\n`, { mode: 0o600 })
  const gateway = new FakeGateway(undefined, { isOld })
  t.after(() => gateway.close())
  const open = async (target: string, other: Partial<GatewayClientOptions> = {}) => {
    const client = await GatewayClient.open({ target, workerId: 'hst_one', tokenFile, callTimeoutMs: 20_000, ...other })
    t.after(() => client.close())
    return client
  }
  return { dir, tokenFile, gateway, open }
}

/** Signs itself, for localhost. Answers the paths of key and certificate. */
export function makeCertificate (dir: string, name: string): { key: string, cert: string } {
  const [key, cert] = [join(dir, `${name}.key`), join(dir, `${name}.pem`)]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'], { stdio: 'ignore' })
  return { key, cert }
}
