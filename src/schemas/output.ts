/** Where the output of a task goes beside its log. */
import { Type, type Static } from '@sinclair/typebox'
import { Timestamp, Words, pattern } from './wire.ts'

const fileName = pattern('^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$', 'must be a plain file name of at most 200 letters, digits and . _ -, beginning with a letter or digit')
const httpUrl = pattern('^https?://[^\\s]+$', 'must be an http:// or https:// URL')
const basinName = pattern('^[a-z0-9]([a-z0-9-]{6,46})[a-z0-9]$', 'must be the name of a basin: 8 to 48 of a-z, 0-9 and -')

export const OutputType = Words(['console', 'file', 's2', 'webhook', 'fleet'], { description: 'fleet: the buffer of the fleet that the task came from; set by its host' })
export type OutputType = Static<typeof OutputType>

/** One output. Which fields belong to which type is checked where it is taken. */
export const OutputSpec = Type.Object({
  type: OutputType,
  name: Type.Optional(Type.String({ pattern: fileName, description: 'file: name of the file in the output directory of the host; the task\'s id with .log or .ndjson without it' })),
  format: Type.Optional(Words(['text', 'ndjson'], { description: 'file: text, the bytes as they came (the default), or ndjson, an entry per line' })),
  basin: Type.Optional(Type.String({ pattern: basinName, description: 's2: basin in the place of the host\'s' })),
  url: Type.Optional(Type.String({ maxLength: 2048, pattern: httpUrl, description: 'webhook: where batches are posted to' })),
  secret: Type.Optional(Type.String({ minLength: 16, maxLength: 256, description: 'webhook: signs what is posted, as Standard Webhooks describe (whsec_ and base64, or any text); never shown again' })),
}, { $id: 'OutputSpec', additionalProperties: false })
export type OutputSpec = Static<typeof OutputSpec>

/** An output as it is shown: without its secret. */
export const OutputView = Type.Object({
  type: OutputType,
  name: Type.Optional(Type.String()),
  format: Type.Optional(Words(['text', 'ndjson'])),
  basin: Type.Optional(Type.String()),
  url: Type.Optional(Type.String()),
  isSigned: Type.Optional(Type.Boolean()),
}, { $id: 'OutputView', additionalProperties: false })
export type OutputView = Static<typeof OutputView>

/** How far an output has come. */
export const OutputState = Type.Object({
  type: OutputType,
  status: Words(['shipping', 'retrying', 'complete', 'given_up'], { description: 'retrying: the destination does not take it at the moment; nothing is lost. given_up: it never will, or its time is over' }),
  entries: Type.Integer({ description: 'How many entries the destination has confirmed' }),
  cursor: Type.Optional(Type.String({ description: 'Place in the log up to which the destination has confirmed' })),
  failingSince: Type.Optional(Timestamp),
  message: Type.Optional(Type.String({ description: 'What the destination said last, where it did not take something' })),
}, { $id: 'OutputState', additionalProperties: false })
export type OutputState = Static<typeof OutputState>
