/** What Redis and the way to it have against a command, as errors for people. */
import { BerthError } from '../../errors.ts'

/** Errors with which a server turns commands away that it could carry out at another time, by their first word: https://redis.io/docs/latest/develop/reference/protocol-spec/ */
const refusals: Readonly<Record<string, string>> = {
  LOADING: 'it reads its data; wait until it has',
  READONLY: 'it is a replica; wait for the failover, or name the master or the sentinels',
  MASTERDOWN: 'it is a replica without its master; wait for the failover',
  CLUSTERDOWN: 'parts of the cluster are down; see to its nodes',
  TRYAGAIN: 'it moves data between nodes; try again',
  MOVED: 'it is a node of a cluster; name it as redis+cluster://…',
  ASK: 'it is a node of a cluster; name it as redis+cluster://…',
  CROSSSLOT: 'keys that belong together lie on several nodes of the cluster; the prefix must not have braces',
  BUSY: 'a script keeps it busy; try again',
  MISCONF: 'it cannot write to its disk; see to that',
  NOREPLICAS: 'too few of its replicas are there; see to them',
  OOM: 'its memory is full; give it more (maxmemory)',
  UNBLOCKED: 'it has just become a replica; try again',
}

const accessRefusals: Readonly<Record<string, string>> = {
  NOAUTH: 'it wants a password; set BERTH_REDIS_PASSWORD_FILE, and the user in the URL where it has users',
  WRONGPASS: 'it does not take the user or the password; put the right one into the file that BERTH_REDIS_PASSWORD_FILE names',
  NOPERM: 'its user may not do that; give it the commands, keys and channels',
}

/** Names and messages with which the client gives up a command that a connection is missing for. */
const clientErrors = new Set(['AbortError', 'MaxRetriesPerRequestError', 'ClusterAllFailedError'])
const clientMessages = /^(Connection is closed|Command timed out|Stream isn't writeable|Cluster isn't ready|None of startup nodes|Too many Cluster redirections|All sentinels are unreachable|No subscriber for the cluster|Socket timeout|Ready check failed)/
const networkCode = /^(E[A-Z]{3,}|UNABLE_TO_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|ERR_TLS|ERR_SSL|ERR_OSSL)/

/** Whether it is the user or the password that is not taken. */
export function isAccessRefusal (error: unknown): boolean {
  return error instanceof Error && firstWord(error) in accessRefusals
}

/** Whether an error says that Redis is away or does not serve at the moment, and nothing about the command. */
export function isRedisFailure (error: unknown): error is Error {
  if (!(error instanceof Error)) return false
  const word = firstWord(error)
  if (error.name === 'ReplyError') return word in refusals || word in accessRefusals
  const { code } = error as NodeJS.ErrnoException
  return clientErrors.has(error.name) || clientMessages.test(error.message) || (typeof code === 'string' && networkCode.test(code))
}

/** What keeps Redis from serving, in a sentence that says what to do. */
export function explainRedis (error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const word = firstWord(error)
  const hint = refusals[word] ?? accessRefusals[word]
  if (hint !== undefined) return `${hint} (${error.message})`
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOENT' || code === 'ECONNREFUSED') return `nothing listens there; start it, or set BERTH_REDIS right (${error.message || code})`
  if (/timed out|timeout|ETIMEDOUT/i.test(error.message)) return `it does not answer; see whether it runs and can be reached (${error.message})`
  if (error.message.startsWith('Connection is closed')) return 'the connection was lost on the way, or is not there again yet; try again'
  return error.message || code || error.name
}

/** A failure of Redis becomes BerthError unavailable `redis_unavailable`; everything else is answered as it is. */
export function toRedisError (error: unknown, address: string): unknown {
  if (error instanceof BerthError || !isRedisFailure(error)) return error
  return redisUnavailable(address, error)
}

export function redisUnavailable (address: string, cause: unknown): BerthError {
  return new BerthError('unavailable', 'redis_unavailable', `Redis at ${address} does not serve: ${explainRedis(cause)}`, { cause })
}

function firstWord ({ message }: Error): string {
  return /^[A-Z]+/.exec(message)?.[0] ?? ''
}
