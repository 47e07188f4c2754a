import { formatAddress, type Family } from '../../lib/ip-network.ts'

/** A TCP socket that waits for connections. */
export interface ListeningSocket {
  port: number
  /** `0.0.0.0`, `127.0.0.1`, `::`; the IPv4 form of an IPv4-mapped address. */
  address: string
  /** Only programs on the same loopback reach it. */
  isLoopback: boolean
}

// `sl local_address rem_address st …` (proc_pid_net(5)): addresses as 32-bit words in the host's byte order, each word as
// eight hex digits, and the port as four in its natural order; 0A is TCP_LISTEN. gVisor prints the same.
const listeningLine = /^\s*\d+:\s+((?:[0-9A-F]{8}){1}|(?:[0-9A-F]{8}){4}):([0-9A-F]{4})\s+[0-9A-F]+:[0-9A-F]{4}\s+0A\s/
const mappedPrefix = 0xffffn << 32n

/**
 * The listening sockets of /proc/net/tcp and tcp6, one after the other or mixed, each once, by port and address.
 * The text is what a sandbox says: lines that are none are skipped.
 */
export function parseListeningSockets (text: string): ListeningSocket[] {
  const found = new Map<string, ListeningSocket>()
  for (const line of text.split('\n')) {
    const [, words, portText] = listeningLine.exec(line) ?? []
    if (words === undefined || portText === undefined) continue
    const port = Number.parseInt(portText, 16)
    if (port === 0) continue
    const value = readAddress(words)
    const isMapped = words.length > 8 && value >> 32n === mappedPrefix >> 32n
    const family = words.length === 8 || isMapped ? 4 : 6
    const address = formatAddress({ family, value: isMapped ? value & 0xffff_ffffn : value })
    found.set(`${address} ${port}`, { port, address, isLoopback: isLoopback(family, value) })
  }
  return [...found.values()].sort((one, other) => one.port - other.port || (one.address < other.address ? -1 : 1))
}

/** Words in the byte order of x86-64 and arm64: the least significant byte first. */
function readAddress (words: string): bigint {
  const bytes = Buffer.from(words, 'hex')
  return BigInt(`0x${bytes.swap32().toString('hex')}`)
}

function isLoopback (family: Family, value: bigint): boolean {
  return family === 4 ? (value >> 24n & 0xffn) === 127n : value === 1n
}
