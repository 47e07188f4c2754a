/** What the rest of the daemon needs of terminals: routes, WebSockets and the daemon's wiring. */
import type { AttachEvent, Terminal, TerminalCreate, TerminalPage, TerminalRole, TerminalStatus, TerminalUpdate } from '../../schemas/terminal.ts'

export interface Terminals {
  /**
   * Starts a process at a terminal of its own. Resolves when the process runs. A key that was given before is answered with the terminal that it made.
   *
   * @throws BerthError as an exec does where the program, the directory or the user is refused; conflict `invalid_state` where the sandbox does not run;
   * exhausted `too_many_terminals`; unavailable `pty_host_unavailable`.
   */
  create: (sandboxId: string, input: TerminalCreate, options: { idempotencyKey?: string | undefined }) => Promise<Terminal>
  /** Newest first. @throws BerthError not_found where there is no such sandbox; invalid_argument `invalid_cursor`. */
  list: (sandboxId: string, filter: { limit?: number | undefined, cursor?: string | undefined, status?: readonly TerminalStatus[] | undefined }) => TerminalPage
  /** @throws BerthError not_found `terminal_not_found`. */
  get: (sandboxId: string, terminalId: string) => Terminal
  /** Another size, another name. @throws BerthError not_found; conflict `terminal_ended` for the size of one that has ended. */
  update: (sandboxId: string, terminalId: string, update: TerminalUpdate) => Promise<Terminal>
  /** Ends the process, gently first, and forgets the terminal with all that it wrote. One that is being removed is waited for. @throws BerthError not_found. */
  remove: (sandboxId: string, terminalId: string) => Promise<void>
  /**
   * One more viewer; it counts from here on, until its `run` is over. Nothing is sent before `run`.
   *
   * @throws BerthError not_found; invalid_argument `invalid_offset` for a `since` that has not been written yet; exhausted `too_many_viewers`.
   */
  attach: (sandboxId: string, terminalId: string, options: AttachOptions, viewer: TerminalViewer) => TerminalAttachment
}

export interface AttachOptions {
  role: TerminalRole
  /** Offset of the first byte that the viewer lacks; without it the screen of the present is painted. */
  since?: number | undefined
  /** Both or none; those of a writer become the terminal's. */
  cols?: number | undefined
  rows?: number | undefined
}

/** Who looks at a terminal. Each call resolves when there is room for more; no other follows before that. A rejection ends the attachment. */
export interface TerminalViewer {
  sendEvent: (event: AttachEvent) => Promise<void>
  /** Resolves when nothing of it waits in this process any more: the bytes are written over then. */
  sendOutput: (bytes: Buffer) => Promise<void>
}

export interface TerminalAttachment {
  /**
   * Sends what there is and what comes. Resolves when `exit` was sent or the signal is aborted; to be called once, always: until then the attachment counts as a viewer.
   * A call of the viewer that never resolves keeps nobody else, and this one no longer than until the abort.
   */
  run: (signal: AbortSignal) => Promise<void>
  /**
   * Input. Resolves when the terminal has taken it; until then nothing else should be written.
   *
   * @throws BerthError permission_denied `read_only`; conflict `terminal_ended`; unavailable `pty_host_unavailable`.
   */
  write: (bytes: Buffer) => Promise<void>
  /** @throws BerthError as `write` does. */
  resize: (cols: number, rows: number) => Promise<void>
}
