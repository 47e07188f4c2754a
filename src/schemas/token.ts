/** Tokens of a sandbox on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp, noNul } from './wire.ts'

const maxLifeMs = 366 * 24 * 3600 * 1000

const Name = Type.String({ minLength: 1, maxLength: 128, pattern: noNul, description: 'To tell it from others' })

export const SandboxTokenCreate = Type.Object({
  name: Type.Optional(Name),
  expiresInMs: Type.Optional(Type.Integer({ minimum: 1000, maximum: maxLifeMs, description: 'How long it is good, in milliseconds; as long as the sandbox is there when absent' })),
}, { $id: 'SandboxTokenCreate', additionalProperties: false })
export type SandboxTokenCreate = Static<typeof SandboxTokenCreate>

export const SandboxToken = Type.Object({
  id: Type.String(),
  name: Type.String(),
  createdAt: Timestamp,
  expiresAt: Type.Optional(Timestamp),
}, { $id: 'SandboxToken', additionalProperties: false })
export type SandboxToken = Static<typeof SandboxToken>

export const SandboxTokenPage = Page(SandboxToken, 'SandboxTokenPage')
export type SandboxTokenPage = Static<typeof SandboxTokenPage>

export const MadeSandboxToken = Type.Object({
  id: Type.String(),
  token: Type.String({ description: 'Told here and never again' }),
  expiresAt: Type.Optional(Timestamp),
}, { $id: 'MadeSandboxToken', additionalProperties: false })
export type MadeSandboxToken = Static<typeof MadeSandboxToken>
