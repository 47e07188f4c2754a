/**
 * What the daemon and its pty-host say to each other: frames over one unix socket connection, and files.
 *
 * Frame: u32le length of what follows, u8 kind, 24 bytes terminal id (ASCII, `trm_` + 20; zeros where none is meant), payload.
 * Whoever reaches the socket is root. The pty-host knows nothing of sandboxes: it runs programs of the host at pseudo-terminals.
 *
 * Files of a terminal, in the directory that `create` names (all written by the pty-host alone):
 *   output.<offset>  output from that absolute offset on (decimal, 16 digits); a new one is begun every `segmentBytes`
 *   screen.<offset>  Screen as JSON: what the terminal showed at the beginning of the output file of the same offset, and, soon after its end,
 *                    at the offset of that; the first file has none, nor need one that was passed in a flood of output
 *   end.json         PtyEnd, durable: it has ended
 * Output is in its file before its frame is sent, so that a reader may take from the files whatever it was told of.
 */

/** How the pty-host is run; a change of it has the daemon start another one. */
export interface PtyHostSettings {
  version: string
  logLevel: string
}

/** Kinds of frames. JSON where nothing else is said. */
export const frameKinds = Object.freeze({
  /** daemon → pty-host, PtyRequest: answered by one `answer` of the same id. */
  request: 1,
  /** pty-host → daemon, PtyAnswer. */
  answer: 2,
  /** daemon → pty-host, bytes: input of the terminal. At most `inputWindowBytes` may be under way to one terminal. */
  input: 3,
  /** pty-host → daemon, u32le: so many bytes of input were taken by the terminal (or dropped, where it has ended). */
  taken: 4,
  /** pty-host → daemon, f64le offset, bytes: output from that offset on, of a terminal that is subscribed to. Frames may be left out: see `advanced`. */
  output: 5,
  /** pty-host → daemon, f64le offset: the files hold output up to there; what was not sent before was left out because the daemon read too slowly. */
  advanced: 6,
  /** pty-host → daemon, PtyEnd: of every terminal, subscribed to or not; after its last output. */
  ended: 7,
})

export const inputWindowBytes = 256 * 1024

export interface PtyCreate {
  op: 'create'
  /** Program by its path, and arguments. Its environment is the pty-host's clean one, its working directory /. */
  argv: string[]
  /** Where its files go; made where it is missing. */
  dir: string
  cols: number
  rows: number
  /** How much output is kept at least, in bytes. */
  windowBytes: number
}

export type PtyOperation =
  | PtyCreate
  | { op: 'resize', cols: number, rows: number }
  /** Closes the terminal for its program (SIGHUP for the client of the runtime); with `force`, SIGKILL for that client. One that has ended is fine. */
  | { op: 'hangUp', force: boolean }
  /** Output is sent from its answer on, which says where that is: `{ offset }`. */
  | { op: 'subscribe' }
  | { op: 'unsubscribe' }
  /** Answers a Screen. */
  | { op: 'screen' }
  /** Forgets one that has ended; its files stay. */
  | { op: 'forget' }
  /** Answers PtyStatus[]; the only one without a terminal. */
  | { op: 'list' }

export type PtyRequest = PtyOperation & { id: number }

export type PtyAnswer = { id: number, result?: unknown } | { id: number, error: { code: string, message: string } }

export interface PtyStatus {
  id: string
  dir: string
  cols: number
  rows: number
  pid: number
  /** How much it has written, in bytes. */
  offset: number
  end?: PtyEnd
}

export interface PtyEnd {
  /** ISO 8601. */
  at: string
  offset: number
  /** Of the program that was run, the runtime's client: which passes on that of the process inside. */
  exitCode?: number
  signalNumber?: number
}

/** What a terminal shows at an offset, as output that paints it on an emptied screen. */
export interface Screen {
  offset: number
  cols: number
  rows: number
  data: string
}
