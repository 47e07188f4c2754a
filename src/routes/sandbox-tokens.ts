/** Tokens of one sandbox over REST. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { BerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { MadeSandboxToken, SandboxTokenCreate, SandboxTokenPage, type SandboxToken } from '../schemas/token.ts'
import { SandboxId } from '../schemas/wire.ts'
import { errorResponses } from './http-errors.ts'

/** What these routes need of the token service. */
export interface SandboxTokens {
  create: (request: { name: string, scope: 'sandbox', sandboxId: string, expiresInMs?: number }) => MadeSandboxToken
  listOf: (sandboxId: string) => SandboxToken[]
  revokeOne: (sandboxId: string, tokenId: string) => void
}

/** The id of a sandbox that is there: a deleted one can still be read, and gets nothing new. */
export function presentId (sandboxes: { get: (id: string) => Sandbox }, id: string): string {
  if (sandboxes.get(id).deletedAt !== undefined) throw new BerthError('not_found', 'sandbox_not_found', 'this sandbox was deleted')
  return id
}

export interface SandboxTokenRouteOptions {
  tokens: SandboxTokens
  sandboxes: { get: (id: string) => Sandbox }
}

const tags = ['tokens']
const Params = Type.Object({ id: SandboxId }, { additionalProperties: false })
const TokenParams = Type.Object({ id: SandboxId, tokenId: Type.String({ pattern: '^tok_[a-z0-9]{20}$' }) }, { additionalProperties: false })

export const sandboxTokenRoutes: FastifyPluginAsyncTypebox<SandboxTokenRouteOptions> = async (app, { tokens, sandboxes }) => {
  app.post('/sandboxes/:id/tokens', {
    config: { hasOptionalBody: true, answersSecret: true },
    schema: {
      operationId: 'createSandboxToken',
      summary: 'Make a token for this sandbox alone',
      description: 'It may look, run execs and see ports of this sandbox; it may not start, stop, change or delete it, nor make tokens. It is told once, so no Idempotency-Key is honoured here. It ends with the sandbox.',
      tags,
      params: Params,
      body: ref(SandboxTokenCreate),
      response: { 201: ref(MadeSandboxToken, { description: 'The token' }), ...errorResponses(404, 413, 415, 429) },
    },
  }, async (request, reply) => {
    const sandboxId = presentId(sandboxes, request.params.id)
    const { name = 'token', expiresInMs } = request.body
    const { id, token, expiresAt } = tokens.create({ name, scope: 'sandbox', sandboxId, ...(expiresInMs === undefined ? {} : { expiresInMs }) })
    return reply.code(201).send({ id, token, ...(expiresAt === undefined ? {} : { expiresAt }) })
  })

  app.get('/sandboxes/:id/tokens', {
    schema: {
      operationId: 'listSandboxTokens',
      summary: 'List the tokens of a sandbox, without their secrets',
      tags,
      params: Params,
      response: { 200: ref(SandboxTokenPage, { description: 'All of them' }), ...errorResponses(404) },
    },
  }, async request => ({ items: tokens.listOf(presentId(sandboxes, request.params.id)) }))

  app.delete('/sandboxes/:id/tokens/:tokenId', {
    schema: {
      operationId: 'revokeSandboxToken',
      summary: 'Revoke a token: it is invalid at once, and so are the browser sessions that it began',
      tags,
      params: TokenParams,
      response: { 204: Type.Null({ description: 'It is revoked' }), ...errorResponses(404) },
    },
  }, async (request, reply) => {
    const { id, tokenId } = request.params
    tokens.revokeOne(presentId(sandboxes, id), tokenId)
    return reply.code(204).send(null)
  })
}
