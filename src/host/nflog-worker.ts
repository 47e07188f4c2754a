/** The thread of an NflogReader: waits for packets that the packet filter logs, and passes on what they say. */
import { readSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { deviceName, waitReadable } from './libc.ts'
import { decodeDatagram, nflogControl, type FromNflogWorker, type LoggedPacket, type NflogWorkerSettings } from './nflog-protocol.ts'

const { fd, wakeFd, control } = workerData as NflogWorkerSettings
const buffer = Buffer.alloc(64 * 1024)
// A flood is dropped here, where it costs least, and not piled up before the main thread.
const maxWaitingMessages = 64
const maxDatagramsAtOnce = 32
// The kernel counts indexes upwards, so one is not given to another device this soon.
const deviceLifeMs = 2000
const maxDevices = 4096

const devices = new Map<number, { name: string | undefined, readAtMs: number }>()
let messagesSent = 0
let hasDropped = false

Atomics.store(control, nflogControl.isReading, 1)
Atomics.notify(control, nflogControl.isReading)
for (;;) {
  const [, hasPackets] = waitReadable([wakeFd, fd], -1)
  if (Atomics.load(control, nflogControl.isClosing) === 1) break
  if (hasPackets) pass(readPackets())
}

function readPackets (): LoggedPacket[] {
  const packets: LoggedPacket[] = []
  for (let count = 0; count < maxDatagramsAtOnce; count++) {
    let length
    try {
      length = readSync(fd, buffer)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EAGAIN') break
      if (code === 'EINTR') continue
      if (code !== 'ENOBUFS') throw error
      hasDropped = true
      continue
    }
    for (const message of decodeDatagram(buffer.subarray(0, length))) if (message.kind === 'packet') packets.push(message.packet)
  }
  return packets
}

function pass (packets: LoggedPacket[]): void {
  if (packets.length === 0 && !hasDropped) return
  if (messagesSent - Atomics.load(control, nflogControl.messagesTaken) >= maxWaitingMessages) {
    hasDropped = true
    return
  }
  for (const packet of packets) if (packet.deviceIndex !== undefined) packet.device = findDevice(packet.deviceIndex)
  parentPort?.postMessage({ packets, hasDropped } satisfies FromNflogWorker)
  messagesSent = (messagesSent + 1) | 0
  hasDropped = false
}

function findDevice (index: number): string | undefined {
  const nowMs = performance.now()
  const known = devices.get(index)
  if (known && nowMs - known.readAtMs < deviceLifeMs) return known.name
  const name = deviceName(index)
  if (devices.size >= maxDevices) devices.clear()
  devices.set(index, { name, readAtMs: nowMs })
  return name
}
