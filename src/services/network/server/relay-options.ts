/** What relays of published ports have in common, of either protocol. */
import type { Logger } from 'pino'

/** One port of the host that is held. */
export interface Relay {
  /** Stops listening and cuts what is open. */
  close: () => Promise<void>
}

export interface RelayOptions {
  publishAddress: string
  hostPort: number
  target: { address: string, port: number }
  logger: Logger
}

/** Every address means that of both families, where the host has IPv6. */
export async function onEveryFamily (address: string, attempt: (host: string) => Promise<void>): Promise<void> {
  if (address !== '0.0.0.0') return await attempt(address)
  try {
    await attempt('::')
  } catch (error) {
    if (!['EAFNOSUPPORT', 'EADDRNOTAVAIL', 'EINVAL'].includes((error as { code?: string }).code ?? '')) throw error
    await attempt(address)
  }
}
