/** The daemon could not be reached, or the connection broke before its answer was whole. */
export class ConnectionError extends Error {
  /** connect: the request never left. answer: it did, and may have had its effect. */
  readonly stage: 'connect' | 'answer'
  /** Whether a daemon that restarts would look like this. */
  readonly isTransient: boolean

  constructor (address: string, stage: 'connect' | 'answer', cause: NodeJS.ErrnoException, isSocket: boolean) {
    super(describe(address, stage, cause.code ?? '', isSocket), { cause })
    this.name = 'ConnectionError'
    this.stage = stage
    this.isTransient = transientCodes.has(cause.code ?? '')
  }
}

const transientCodes = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'ETIMEDOUT', 'ERR_STREAM_PREMATURE_CLOSE'])

function describe (address: string, stage: 'connect' | 'answer', code: string, isSocket: boolean): string {
  if (stage === 'answer') return `the connection to the daemon at ${address} broke before it had answered; see whether it runs: berth host`
  if (isSocket) {
    if (code === 'EACCES' || code === 'EPERM') return `no permission for the socket ${address}; run as root, or set BERTH_URL and BERTH_TOKEN`
    return `no daemon answers on ${address}; start it with: berth serve (or point BERTH_SOCKET or BERTH_URL to one that runs)`
  }
  if (code === 'ECONNREFUSED') return `no daemon answers on ${address}; start it with: berth serve (or correct BERTH_URL)`
  if (code === 'ETIMEDOUT') return `${address} did not answer in time; is BERTH_URL right and the daemon's port reachable from here?`
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return `the host name in ${address} is not known; correct BERTH_URL`
  return `${address} could not be reached (${code || 'no reason given'}); is BERTH_URL right?`
}
