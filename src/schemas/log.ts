/** A log record on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Words } from './wire.ts'

export const LogStream = Words(['stdout', 'stderr'])
export type LogStream = Static<typeof LogStream>

/** Output is missing here. */
const LogGap = Type.Object({
  type: Type.Literal('gap'),
  cursor: Type.String(),
  bytes: Type.Optional(Type.Integer({ description: 'How many bytes of the log file are gone, when that is known' })),
  message: Type.String(),
}, { additionalProperties: false })

/**
 * One record of a log. `cursor` names the place just behind it (opaque to clients): reading on from there loses and
 * repeats nothing.
 */
export const LogRecord = Type.Union([
  Type.Object({
    type: Type.Literal('line'),
    cursor: Type.String(),
    at: Type.String({ description: 'When the bytes were read from the process, ISO 8601' }),
    stream: LogStream,
    text: Type.String({ description: 'Without its line end' }),
    encoding: Type.Optional(Type.Literal('base64', { description: 'The bytes are not UTF-8, and text is them in base64' })),
    partial: Type.Boolean({ description: 'true: the line goes on in the next record of the same stream' }),
  }, { additionalProperties: false }),
  LogGap,
], { $id: 'LogRecord' })
export type LogRecord = Static<typeof LogRecord>

/** A message of a log over WebSocket: output of one stream that was read within a moment, or a gap. */
export const LogFrame = Type.Union([
  Type.Object({
    type: Type.Literal('output'),
    cursor: Type.String({ description: 'Reading on from here goes on behind this output' }),
    time: Type.String({ description: 'When its first bytes were read from the process, ISO 8601' }),
    stream: LogStream,
    data: Type.String({ description: 'What the process wrote, line ends and all' }),
    encoding: Type.Optional(Type.Literal('base64', { description: 'The bytes are not UTF-8, and data is them in base64' })),
  }, { additionalProperties: false }),
  LogGap,
], { $id: 'LogFrame' })
export type LogFrame = Static<typeof LogFrame>

/** The last message of a log that was followed to its end. */
export const LogEnd = Type.Object({
  type: Type.Literal('end'),
  reason: Type.Optional(Type.String({ description: 'Why the process ended, as its resource says' })),
  exitCode: Type.Optional(Type.Integer()),
}, { $id: 'LogEnd', additionalProperties: false })
export type LogEnd = Static<typeof LogEnd>
