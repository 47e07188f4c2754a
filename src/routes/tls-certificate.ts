/** The certificate of a server, from PEM files that may be replaced while it runs. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { BerthError } from '../errors.ts'
import { readSecretFile } from '../lib/secret-file.ts'
import type { ServerCertificates } from './http-server.ts'

export interface TlsFiles {
  /** PEM: the certificate, and those between it and an authority that clients know. */
  certFile: string
  /** PEM of its key, mode 0600. */
  keyFile: string
  /** PEM of the authorities of which clients must show a certificate; empty: they need none. */
  clientCaFile?: string
}

interface Renewable {
  setSecureContext: (options: { cert: Buffer, key: Buffer, ca?: Buffer }) => void
}

const keyLimits = { minBytes: 1, maxBytes: 64 * 1024 }
const lookEveryMs = 60_000

/** @throws BerthError invalid_argument `invalid_config` that says which file is wrong, and why. */
export async function readCertificate ({ certFile, keyFile, clientCaFile = '' }: TlsFiles): Promise<ServerCertificates> {
  const cert = await readPem(certFile)
  const key = await readSecretFile(keyFile, keyLimits).catch((cause: unknown) => { throw wrong(keyFile, (cause as Error).message, cause) })
  try {
    const isPair = new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))
    if (!isPair) throw new Error('it is not the key of the certificate')
  } catch (cause) {
    throw wrong(keyFile, (cause as Error).message, cause)
  }
  return { cert, key, ...(clientCaFile === '' ? {} : { clientCa: await readPem(clientCaFile) }) }
}

/** Has a server use other files once they are there; those that cannot be used change nothing. Answers how to stop. */
export function renewCertificate (server: Renewable, files: TlsFiles, first: ServerCertificates, onError: (error: unknown) => void): () => void {
  let current = first
  const timer = setInterval(() => {
    readCertificate(files).then(next => {
      if (String(next.cert) === String(current.cert) && String(next.key) === String(current.key) && String(next.clientCa) === String(current.clientCa)) return
      current = next
      const { cert, key, clientCa } = next
      server.setSecureContext({ cert, key, ...(clientCa && { ca: clientCa }) })
    }).catch(onError)
  }, lookEveryMs).unref()
  return () => clearInterval(timer)
}

async function readPem (path: string): Promise<Buffer> {
  const pem = await readFile(path).catch((cause: NodeJS.ErrnoException) => { throw wrong(path, `it cannot be read (${cause.code})`, cause) })
  try {
    void new X509Certificate(pem)
    return pem
  } catch (cause) {
    throw wrong(path, 'it holds no certificate in PEM', cause)
  }
}

function wrong (path: string, problem: string, cause: unknown): BerthError {
  return new BerthError('invalid_argument', 'invalid_config', `${path}: ${problem}`, { cause })
}
