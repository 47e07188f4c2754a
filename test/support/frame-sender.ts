/**
 * Puts frames on a link as they are, `frame-sender.ts DEVICE HEX…`: what a program can do that has taken over the sandbox's own kernel,
 * which holds a packet socket in the sandbox's namespace. Run it there.
 */
import { readFileSync } from 'node:fs'
import koffi from 'koffi'

const [device = '', ...frames] = process.argv.slice(2)
const [afPacket, sockRaw, etherTypeAll] = [17, 3, 0x0300]
const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int, int, int)') as (family: number, type: number, protocol: number) => number
const sendto = libc.func('long sendto(int, const uint8_t *, size_t, int, const uint8_t *, uint32_t)') as (fd: number, data: Buffer, length: number, flags: number, address: Buffer, addressLength: number) => number

// struct sockaddr_ll of packet(7): family, protocol, interface index; the rest is not read.
const address = Buffer.alloc(20)
address.writeUInt16LE(afPacket, 0)
address.writeUInt16LE(etherTypeAll, 2)
address.writeInt32LE(Number(/** of this namespace, whatever is mounted on /sys */ indexOf(device)), 4)

const fd = socket(afPacket, sockRaw, etherTypeAll)
for (const frame of frames) {
  const data = Buffer.from(frame, 'hex')
  if (sendto(fd, data, data.length, 0, address, address.length) !== data.length) throw new Error(`a frame was not sent on ${device}`)
}

function indexOf (name: string): number {
  const index = (libc.func('uint32_t if_nametoindex(const char *)') as (name: string) => number)(name)
  if (index === 0) throw new Error(`there is no ${name} here: ${readFileSync('/proc/net/dev', 'latin1')}`)
  return index
}
