/** Limits of bandwidth: a token bucket (tc-tbf(8)) before each end of a veth, which holds back what that end sends. */
import { BerthError } from '../errors.ts'
import { withNetworkNamespace } from './ip-batch.ts'
import { runCommand, type CommandResult } from './command.ts'

export interface BandwidthLimit {
  /** The name of the sandbox's network namespace. */
  netns: string
  /** The host's end of its link; inside it is eth0. */
  device: string
  /** Out of the sandbox; without a limit when absent. */
  uploadBitsPerSecond?: number | undefined
  /** Into the sandbox; without a limit when absent. */
  downloadBitsPerSecond?: number | undefined
}

interface QueueingDiscipline {
  kind: string
  options?: { rate?: number }
}

const timeoutMs = 10_000
const usualEnd = 'eth0'

/**
 * Puts the limits in force, and takes away those that are absent; looks afterwards that it is so. It starts two processes: a slot
 * that was never limited needs no call without a limit.
 *
 * @throws BerthError unavailable `bandwidth_unsupported` when the kernel has no token bucket; an Error when a limit is not in force.
 */
export async function limitBandwidth ({ netns, device, uploadBitsPerSecond, downloadBitsPerSecond }: BandwidthLimit): Promise<void> {
  const outcomes = await Promise.allSettled([
    limitSending([], device, downloadBitsPerSecond),
    limitSending(['-n', netns], usualEnd, uploadBitsPerSecond),
  ])
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
}

/**
 * Limits a link of a network namespace that it makes.
 *
 * @throws BerthError unavailable `bandwidth_unsupported`; IpError.
 */
export async function probeTokenBucket (): Promise<void> {
  await withNetworkNamespace(netns => limitSending(['-n', netns], 'lo', 1_000_000))
}

async function limitSending (where: readonly string[], device: string, bitsPerSecond: number | undefined): Promise<void> {
  const change = bitsPerSecond === undefined ? `qdisc del dev ${device} root` : `qdisc replace dev ${device} root tbf ${bucketOf(bitsPerSecond)}`
  // Forced, so that it shows what is there also when there was nothing to delete.
  const args = [...where, '-force', '-json', '-batch', '-']
  const result = await runCommand('tc', args, { timeoutMs, input: `${change}\nqdisc show dev ${device}\n` })
  const problem = problemOf(result, bitsPerSecond)
  if (problem === undefined) return
  const cause = new Error(`tc ${args.join(' ')} of "${change}": ${problem}; ${result.stderr.trim()}`)
  if (/unknown|not supported/i.test(result.stderr)) {
    throw new BerthError('unavailable', 'bandwidth_unsupported', 'the kernel of this host has no token bucket filter (module sch_tbf), so bandwidth cannot be limited; leave bandwidth out', { cause })
  }
  throw cause
}

/** What is wrong with what is in force; undefined when it is as it should be. */
function problemOf ({ stdout }: CommandResult, bitsPerSecond: number | undefined): string | undefined {
  const shown = stdout.trim()
  if (shown === '') return 'what is in force cannot be seen'
  const bucket = (JSON.parse(shown) as QueueingDiscipline[]).find(({ kind }) => kind === 'tbf')
  if (bitsPerSecond === undefined) return bucket ? 'there is a limit still' : undefined
  const inForce = (bucket?.options?.rate ?? 0) * 8
  // The kernel counts whole bytes a second.
  return Math.abs(inForce - bitsPerSecond) <= 8 ? undefined : `${inForce} bit/s are in force`
}

// A bucket holds what is sent in this time at full rate, so that timers need not be exact, and at least some packets of 1500 bytes.
const bucketSeconds = 0.01
const leastBucketBytes = 16 * 1024
// What waits beyond it: enough for TCP to fill the rate, little enough to be told soon that it sends too much.
const queueSeconds = 0.05
const leastQueueBytes = 32 * 1024

/** Rate, burst and limit as tc-tbf(8) takes them. At 100 Gbit/s the sizes are within the kernel's 32 bits. */
export function bucketOf (bitsPerSecond: number): string {
  const bytesPerSecond = bitsPerSecond / 8
  const burst = Math.max(leastBucketBytes, Math.ceil(bytesPerSecond * bucketSeconds))
  const limit = burst + Math.max(leastQueueBytes, Math.ceil(bytesPerSecond * queueSeconds))
  return `rate ${bitsPerSecond}bit burst ${burst} limit ${limit}`
}
