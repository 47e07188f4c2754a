import { BerthError } from '../../errors.ts'

/** A host that gave no answer. `wasSent`: it may have got the request, and may have carried it out. */
export class WorkerUnreachableError extends BerthError {
  readonly wasSent: boolean

  constructor (workerId: string, cause: NodeJS.ErrnoException, wasSent: boolean) {
    super('unavailable', 'worker_unreachable', wasSent ? brokenOff(workerId) : `the gateway cannot connect to worker ${workerId}: ${reasonOf(cause)}`, { cause, details: { workerId } })
    this.wasSent = wasSent
  }
}

/** What it answers is no HTTP, or more than can be taken. */
export function badWorkerAnswer (workerId: string, what: string, cause?: unknown): BerthError {
  return new BerthError('unavailable', 'worker_unreachable', `worker ${workerId} gave no proper answer: ${what}; see that its --advertise is the address of its API`, { cause, details: { workerId } })
}

/** The token that the host gave the gateway is not good any more. */
export function workerRefuses (workerId: string): BerthError {
  return new BerthError('unavailable', 'worker_unreachable',
    `worker ${workerId} does not take the gateway's credentials: it gives others when it joins again, which it does by itself; try again soon`, { details: { workerId } })
}

function brokenOff (workerId: string): string {
  return `the connection to worker ${workerId} broke before it answered: what was asked may have been done; look before asking again, or repeat a POST with the same Idempotency-Key`
}

/** Node's codes of what connecting can end with, in words that say what to do. */
function reasonOf ({ code = '' }: NodeJS.ErrnoException): string {
  if (code === 'ECONNREFUSED') return 'nothing listens at its address; see that its daemon runs, and that it listens where --advertise says'
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return 'the name in its --advertise is not known here'
  if (/CERT|SELF_SIGNED|^ERR_TLS|^ERR_SSL|^UNABLE_TO|^EPROTO/.test(code)) return 'its certificate is not one that is trusted here; see its --advertise and the authorities that it names'
  return 'its address does not answer in time, or not from here; see that its --advertise can be reached from the gateway'
}
