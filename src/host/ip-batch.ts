/** Changes to links, addresses and network namespaces by iproute2, many in one process; and what of them is there. */
import { randomBytes } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { runCommand } from './command.ts'

/** `exists`: what is to be made is there already. `missing`: what is to be changed is not there. */
export type IpProblem = 'exists' | 'missing' | 'other'

/** ip(8) refused a line. */
export class IpError extends Error {
  readonly problem: IpProblem
  /** Which line of the batch it was, from 0; undefined when ip did not say. */
  readonly line: number | undefined

  constructor (what: string, stderr: string, exitCode: number) {
    super(`${what}: ${stderr.trim() || `ended with exit code ${exitCode}`}`)
    this.name = 'IpError'
    this.problem = classify(stderr)
    const [, line] = /^Command failed -:(\d+)/m.exec(stderr) ?? []
    this.line = line === undefined ? undefined : Number(line) - 1
  }
}

/** Words of ip itself and of the kernel, which has several for the same by its version. */
function classify (stderr: string): IpProblem {
  if (/File exists|already assigned/i.test(stderr)) return 'exists'
  return /No such file or directory|Cannot find device|No such process|Cannot assign requested address|address not found/i.test(stderr) ? 'missing' : 'other'
}

export interface IpBatchOptions {
  /** The name of the namespace in which to work; the own one when absent. */
  netns?: string
  /** Goes on after a line that fails, and does not throw for it. */
  isForced?: boolean
}

const timeoutMs = 10_000
// 4096 links are described in 3 MiB.
const maxOutputBytes = 64 * 1024 * 1024
const namespacesDir = '/run/netns'

/**
 * Runs the lines, each as ip(8) takes it after its options, in one process. A line that fails ends it; those before it stay done.
 *
 * @throws IpError, unless it is forced; an Error when ip does not end in time.
 */
export async function runIpBatch (lines: readonly string[], { netns, isForced = false }: IpBatchOptions = {}): Promise<void> {
  if (lines.length === 0) return
  const args = [...(netns === undefined ? [] : ['-n', netns]), ...(isForced ? ['-force'] : []), '-batch', '-']
  const { exitCode, stderr } = await runCommand('ip', args, { timeoutMs, input: `${lines.join('\n')}\n` })
  if (exitCode === 0 || (isForced && exitCode === 1)) return
  throw new IpError(`ip ${args.join(' ')}`, exitCode === 124 ? `did not end within ${timeoutMs} ms` : stderr, exitCode)
}

/**
 * What `ip -j` answers: one object for each thing that fits.
 *
 * @throws IpError
 */
export async function readIpJson<T extends object> (args: readonly string[]): Promise<Array<Partial<T>>> {
  const { exitCode, stdout, stderr } = await runCommand('ip', ['-j', ...args], { timeoutMs, maxOutputBytes })
  if (exitCode !== 0) throw new IpError(`ip ${args.join(' ')}`, stderr, exitCode)
  return stdout.trim() === '' ? [] : JSON.parse(stdout) as Array<Partial<T>>
}

/** The links of a group, in this network namespace. */
export async function listLinks (group: number): Promise<Array<{ name: string, index: number }>> {
  const links = await readIpJson<{ ifname: string, ifindex: number }>(['link', 'show', 'group', String(group)])
  // ip filters by itself and leaves an empty object for each link of another group.
  return links.flatMap(({ ifname, ifindex }) => ifname === undefined || ifindex === undefined ? [] : [{ name: ifname, index: ifindex }])
}

/** The named network namespaces whose name begins so. */
export async function listNetworkNamespaces (prefix: string): Promise<string[]> {
  const names = await readdir(namespacesDir).catch((error: NodeJS.ErrnoException) => {
    // ip makes the directory with the first namespace.
    if (error.code === 'ENOENT') return []
    throw error
  })
  return names.filter(name => name.startsWith(prefix))
}

/**
 * Makes a network namespace and does something with it, whose name it is told; then it is gone again.
 *
 * @throws IpError, and whatever the work throws.
 */
export async function withNetworkNamespace<T> (work: (netns: string) => Promise<T>): Promise<T> {
  const netns = `berth-try-${randomBytes(4).toString('hex')}`
  try {
    await runIpBatch([`netns add ${netns}`])
    return await work(netns)
  } finally {
    await runIpBatch([`netns del ${netns}`], { isForced: true })
  }
}

/**
 * Makes a network namespace with a veth whose two ends are in it.
 *
 * @throws IpError where the kernel has neither, or the process no right to.
 */
export async function probeVeth (): Promise<void> {
  await withNetworkNamespace(netns => runIpBatch(['link add name a type veth peer name b'], { netns }))
}

export interface Traffic {
  receivedBytes: number
  sentBytes: number
}

/**
 * What went over a veth since it was made, as the sandbox sees it: what the host's end sent, the sandbox received.
 * Answers undefined when there is no such link.
 *
 * @param device the host's end
 */
export async function readTraffic (device: string): Promise<Traffic | undefined> {
  const counters = await readDeviceTable(device)
  if (!counters) return undefined
  const [receivedByHost, sentByHost] = counters
  return { receivedBytes: sentByHost, sentBytes: receivedByHost }
}

/** What a device received and sent, in bytes. */
async function readDeviceTable (device: string): Promise<[received: number, sent: number] | undefined> {
  const dir = `/sys/class/net/${device}/statistics`
  try {
    const [received, sent] = await Promise.all([readFile(`${dir}/rx_bytes`, 'latin1'), readFile(`${dir}/tx_bytes`, 'latin1')])
    return [Number(received), Number(sent)]
  } catch {
    // /sys shows the namespace it was mounted in, /proc/net that of the process.
    return parseDeviceTable(await readFile('/proc/net/dev', 'latin1'), device)
  }
}

/** Finds a device in /proc/net/dev (proc(5)): the first column is bytes received, the ninth bytes sent. */
export function parseDeviceTable (table: string, device: string): [received: number, sent: number] | undefined {
  const line = table.split('\n').find(candidate => candidate.trimStart().startsWith(`${device}:`))
  if (line === undefined) return undefined
  const columns = line.slice(line.indexOf(':') + 1).trim().split(/\s+/).map(Number)
  return [columns[0] ?? 0, columns[8] ?? 0]
}
