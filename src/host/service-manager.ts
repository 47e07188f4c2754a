/** What a service says to the systemd that started it: that it is ready, that it lives, that it ends. */
import { closeSync } from 'node:fs'
import koffi from 'koffi'

export interface ServiceManagerOptions {
  /** As the service manager set them: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID. Without the first nobody is told anything. */
  environment: Readonly<Record<string, string | undefined>>
  /** Told when a message could not be sent; the service goes on. */
  onError: (error: Error) => void
}

// socket(2), unix(7), send(2)
const AF_UNIX = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const sunPathBytes = 108

/**
 * Speaks the protocol of sd_notify(3): one datagram for each message. No message waits for anybody.
 * What the service starts must not inherit NOTIFY_SOCKET: it could speak in its name.
 */
export class ServiceManager {
  readonly #address: Buffer | undefined
  readonly #watchdogMs: number
  readonly #onError: (error: Error) => void
  #timer: NodeJS.Timeout | undefined

  constructor ({ environment, onError }: ServiceManagerOptions) {
    this.#onError = onError
    this.#address = addressOf(environment['NOTIFY_SOCKET'] ?? '')
    const isForUs = (environment['WATCHDOG_PID'] ?? String(process.pid)) === String(process.pid)
    const watchdogMs = Number(environment['WATCHDOG_USEC'] ?? 0) / 1000
    this.#watchdogMs = this.#address && isForUs && Number.isFinite(watchdogMs) ? watchdogMs : 0
  }

  get isThere (): boolean { return this.#address !== undefined }

  notifyReady (status = 'ready'): void {
    this.#send(`READY=1\nSTATUS=${status.replaceAll('\n', ' ')}`)
  }

  notifyStatus (status: string): void {
    this.#send(`STATUS=${status.replaceAll('\n', ' ')}`)
  }

  /** Its end may take so long; the service manager waits for it. */
  notifyStopping (withinMs = 0): void {
    this.#send(`STOPPING=1\nSTATUS=stopping${withinMs > 0 ? `\nEXTEND_TIMEOUT_USEC=${Math.ceil(withinMs) * 1000}` : ''}`)
  }

  /**
   * Says twice in each watchdog interval that the service lives, as long as it is healthy and its event loop turns; answers how to
   * stop. Whoever stays silent is killed and started again. Goes on while the service stops, for a stop that hangs hangs.
   */
  startWatchdog (isHealthy: () => boolean = () => true): () => void {
    if (this.#watchdogMs <= 0) return () => {}
    const beat = () => { if (isHealthy()) this.#send('WATCHDOG=1') }
    beat()
    this.#timer = setInterval(beat, this.#watchdogMs / 2)
    this.#timer.unref()
    return () => clearInterval(this.#timer)
  }

  #send (message: string): void {
    if (!this.#address) return
    try {
      sendDatagram(this.#address, Buffer.from(message))
    } catch (error) {
      this.#onError(error as Error)
    }
  }
}

/** struct sockaddr_un: a path, or an abstract name after an @. Undefined for what is neither. */
function addressOf (text: string): Buffer | undefined {
  const isAbstract = text.startsWith('@')
  if (!isAbstract && !text.startsWith('/')) return undefined
  const path = isAbstract ? Buffer.concat([Buffer.of(0), Buffer.from(text.slice(1))]) : Buffer.from(`${text}\0`)
  if (path.length > sunPathBytes) return undefined
  return Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), path])
}

/** Throws an Error where the message cannot be handed over at once. */
function sendDatagram (address: Buffer, message: Buffer): void {
  const { open, send } = loadCalls()
  const checked = (what: string, result: number): number => {
    if (result >= 0) return result
    const code = Object.entries(koffi.os.errno).find(([, number]) => number === koffi.errno())?.[0] ?? 'UNKNOWN'
    throw Object.assign(new Error(`the service manager could not be told: ${what}: ${code}`), { code })
  }
  const fd = checked('socket', open(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))
  try {
    checked('sendto', send(fd, message, message.length, MSG_DONTWAIT | MSG_NOSIGNAL, address, address.length))
  } finally {
    closeSync(fd)
  }
}

interface Calls {
  open: (domain: number, type: number, protocol: number) => number
  send: (fd: number, message: Buffer, length: number, flags: number, address: Buffer, addressLength: number) => number
}

let calls: Calls | undefined

/** Only a service that has somebody to tell needs them. */
function loadCalls (): Calls {
  if (calls) return calls
  const libc = koffi.load('libc.so.6')
  calls = {
    open: libc.func('int socket(int domain, int type, int protocol)'),
    send: libc.func('long sendto(int fd, const void *message, size_t length, int flags, const void *address, unsigned int addressLength)'),
  }
  return calls
}
