import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const tcgetattrCall = libc.func('int tcgetattr(int fd, _Out_ void *attributes)')
const tcsetattrCall = libc.func('int tcsetattr(int fd, int when, const void *attributes)')
const cfmakerawCall = libc.func('void cfmakeraw(_Inout_ void *attributes)')

// termios.h
const TCSANOW = 0
/** More than any `struct termios` of glibc takes; what is in it is libc's own. */
const structBytes = 256

/**
 * How a terminal of this process treats what passes. Raw, nothing of input or output is changed: Node's own raw mode still makes a
 * carriage return of each line feed, which shifts what full-screen programs draw.
 */
export class TerminalMode {
  readonly #fd: number
  readonly #before = Buffer.alloc(structBytes)
  readonly #raw = Buffer.alloc(structBytes)

  /** @throws Error where it is no terminal. */
  constructor (fd: number) {
    this.#fd = fd
    if (tcgetattrCall(fd, this.#before) !== 0) throw new Error(`file descriptor ${fd} is no terminal`)
    this.#before.copy(this.#raw)
    cfmakerawCall(this.#raw)
  }

  /** Idempotent. */
  enter (): void {
    tcsetattrCall(this.#fd, TCSANOW, this.#raw)
  }

  /** As it was before. Idempotent; fails where the terminal is gone, without a word. */
  leave (): void {
    tcsetattrCall(this.#fd, TCSANOW, this.#before)
  }
}
