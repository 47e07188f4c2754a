/** Terminals over WebSockets: output and input as bytes in binary frames, all else as JSON in text frames. */
import { Type, type Static } from '@sinclair/typebox'
import type { FastifyPluginAsync } from 'fastify'
import { BerthError, toBerthError } from '../errors.ts'
import { errorResponses } from '../routes/http-errors.ts'
import { TerminalParams } from '../routes/terminals.ts'
import { denied } from '../routes/token-scopes.ts'
import { ref } from '../schemas/components.ts'
import { AttachCommand, AttachEvent, TerminalRole } from '../schemas/terminal.ts'
import type { TerminalAttachment, Terminals } from '../services/terminals/terminal-types.ts'
import type { JsonSocket } from './json-socket.ts'
import { addSocketRoute, type SocketContext, type Talk } from './socket-route.ts'

export interface TerminalAttachOptions {
  terminals: Pick<Terminals, 'attach'>
  sockets: SocketContext
}

const { cols: Columns, rows: Rows } = AttachCommand.properties

const AttachQuery = Type.Object({
  since: Type.Optional(Type.Integer({ minimum: 0, description: 'Offset of the first byte that the client lacks: it gets just those from there on. Without it the present screen is painted' })),
  role: Type.Optional({ ...TerminalRole, description: 'write: types and resizes. read: looks only. write when absent; read where the token or ticket allows no more' }),
  cols: Type.Optional({ ...Columns, description: 'Resizes the terminal, as the first thing; with rows, and role write' }),
  rows: Type.Optional({ ...Rows, description: 'With cols' }),
  deflate: Type.Boolean({ default: false, description: 'Use permessage-deflate where the client offers it, for slow connections; else frames go as they are, which is quicker' }),
  ticket: Type.Optional(Type.String({ maxLength: 128, description: 'A ticket of scope terminal, in the place of a token' })),
}, { additionalProperties: false, dependentRequired: { cols: ['rows'], rows: ['cols'] } })
type AttachQuery = Static<typeof AttachQuery>
type AttachParams = Static<typeof TerminalParams>

/** So that what is pasted goes in one piece. */
const maxInputBytes = 1024 ** 2
/** Who types where only looking is allowed is told, but not with every key. In milliseconds. */
const readOnlyNoticeMs = 1000

const description = `Binary frames are bytes: output, and from a client with role write input. Text frames are JSON.

The daemon sends an \`AttachEvent\` in each: \`ready\` first of all; \`screen\` where the present is painted; \`gap\`, and a \`screen\`, where output is
left out, since it is not kept any more or was not taken quickly enough; \`resize\`; \`exit\` when the terminal has ended and all output was sent, and the
socket is closed with 1000; \`error\`. Counting the bytes of binary frames from the last \`offset\` on gives the \`since\` with which coming back loses and
repeats nothing.

A client with role write may send an \`AttachCommand\` (64 KiB of input in a frame are enough, more than 1 MiB closes with 1009). What is wrong with a
message is said in an \`error\`, and the socket stays open: \`invalid_command\`, \`read_only\` (once a second), \`terminal_ended\`. While the terminal takes no
input nothing is read from the client. Who takes nothing for a minute (BERTH_FOLLOWER_STALL_MS) while something waits is closed with 1013
\`follower_stalled\`; a daemon that ends closes with 1001, and the terminal goes on.

A browser, which can send no header, offers the subprotocols \`berth.v1\` and \`bearer.<token>\`, or brings a ticket of scope \`terminal\` as \`?ticket=\`.`

export const terminalAttachRoutes: FastifyPluginAsync<TerminalAttachOptions> = async (app, { terminals, sockets }) => {
  addSocketRoute<AttachParams, AttachQuery>(app, '/sandboxes/:id/terminals/:tid/attach', {
    schema: {
      operationId: 'attachTerminal',
      summary: 'Look at a terminal, and type into it, over a WebSocket',
      description,
      tags: ['terminals'],
      params: TerminalParams,
      querystring: AttachQuery,
      response: {
        101: {
          description: 'Frames follow: each AttachEvent from the daemon, each AttachCommand from the client',
          content: { 'application/json': { schema: Type.Unsafe({ anyOf: [ref(AttachEvent), ref(AttachCommand)] }) } },
        },
        ...errorResponses(404, 426, 429),
      },
    },
    ticketFor: ({ id, tid }) => ({ scope: 'terminal', sandboxId: id, terminalId: tid }),
    plainAdvice: 'the path before /attach answers plain requests',
    maxMessageBytes: maxInputBytes,
    deflates: ({ deflate }) => deflate,
    open ({ id, tid }, { since, role: asked, cols, rows }, { mayWrite, signal }) {
      const role = asked ?? (mayWrite ? 'write' : 'read')
      if (role === 'write' && !mayWrite) throw denied('this token or ticket only lets look; attach with ?role=read')
      if (role === 'read' && cols !== undefined) {
        throw new BerthError('invalid_argument', 'invalid_parameter', 'cols and rows must not be given with role read, which does not resize', { details: { field: 'cols' } })
      }
      // It is there before anything is sent to it.
      let socket!: JsonSocket
      const attachment = terminals.attach(id, tid, { role, since, cols, rows }, {
        sendEvent (event) {
          // Nothing is said behind it.
          if (event.type === 'exit') typist.stop()
          return socket.send(event)
        },
        sendOutput: bytes => socket.sendBytes(bytes),
      })
      const typist: Typist = new Typist(attachment, { isReadOnly: role === 'read', complain: event => socket.send(event) })
      return {
        onMessage: (data, isBinary) => typist.take(data, isBinary),
        abandon: () => void attachment.run(signal).catch(() => {}),
        async run (opened) {
          socket = opened
          await attachment.run(signal)
        },
      } satisfies Talk
    },
  }, sockets)
}

interface TypistOptions {
  isReadOnly: boolean
  complain: (event: Extract<AttachEvent, { type: 'error' }>) => Promise<void>
}

/** What a client sends, and what it is told of it. */
class Typist {
  readonly #attachment: TerminalAttachment
  readonly #options: TypistOptions
  #isStopped = false
  #noticeAtMs = -Infinity

  constructor (attachment: TerminalAttachment, options: TypistOptions) {
    this.#attachment = attachment
    this.#options = options
  }

  /** Resolves when the terminal has taken it, or will not. Rejects for what is wrong inside. */
  async take (data: Buffer, isBinary: boolean): Promise<void> {
    if (this.#isStopped) return
    if (this.#options.isReadOnly) return await this.#refuse()
    try {
      if (isBinary) return await this.#attachment.write(data)
      const { cols, rows } = parseCommand(data)
      await this.#attachment.resize(cols, rows)
    } catch (error) {
      const { kind, code, message } = toBerthError(error)
      if (kind === 'internal') throw error
      if (!this.#isStopped) await this.#options.complain({ type: 'error', code, message })
    }
  }

  /** Nothing that comes is taken any more, nor answered. */
  stop (): void {
    this.#isStopped = true
  }

  async #refuse (): Promise<void> {
    const nowMs = performance.now()
    if (nowMs - this.#noticeAtMs < readOnlyNoticeMs) return
    this.#noticeAtMs = nowMs
    await this.#options.complain({ type: 'error', code: 'read_only', message: 'this client only looks; attach with ?role=write to type and to resize' })
  }
}

/** @throws BerthError invalid_argument `invalid_command`. */
function parseCommand (text: Buffer): AttachCommand {
  const { type, cols, rows, ...others } = parseObject(text)
  const isKnown = type === AttachCommand.properties.type.const && Object.keys(others).length === 0
  if (isKnown && isWithin(Columns, cols) && isWithin(Rows, rows)) return { type, cols, rows }
  throw new BerthError('invalid_argument', 'invalid_command',
    `a text frame must be {"type": "resize", "cols": …, "rows": …} with integers from ${Columns.minimum} to ${Columns.maximum}; input goes in binary frames`)
}

function parseObject (text: Buffer): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text.toString())
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch {}
  return {}
}

function isWithin ({ minimum = 0, maximum = Infinity }: typeof Columns, value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= minimum && (value as number) <= maximum
}
