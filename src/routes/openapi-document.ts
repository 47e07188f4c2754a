/** The OpenAPI document, made of the routes' own schemas, and its page at /docs. */
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifySchema } from 'fastify'
import { ErrorBody } from '../schemas/wire.ts'

interface BodySchema {
  then?: unknown
  else?: unknown
  oneOf?: unknown[]
}

interface Operation {
  operationId?: string
  requestBody?: { required?: boolean, content?: Record<string, { schema?: BodySchema }> }
  parameters?: unknown[]
}

const idempotencyKey = {
  in: 'header',
  name: 'Idempotency-Key',
  required: false,
  schema: { type: 'string', pattern: '^[\\x21-\\x7e]{1,255}$' },
  description: 'Sent again with the same key, the request happens once and its first success is answered again (for 24 hours)',
}

const description = `A sandbox host for AI agents.

Every answer is JSON in camelCase; times are ISO 8601 in UTC. Lists answer \`{items, nextCursor}\`.
Errors always have the same body, \`Error\`; its \`kind\` decides the status, its \`code\` says exactly what is wrong.
Unknown fields are refused. Every POST takes an \`Idempotency-Key\` (but those that answer a secret): the same request sent twice with it happens once.
A bearer token is needed, except over the unix socket.`

const tags = [
  { name: 'sandboxes', description: 'Isolated machines: create, watch, pause, stop, delete' },
  { name: 'tasks', description: 'Commands that are queued, run in a sandbox of their own, and reported on exactly once' },
  { name: 'execs', description: 'Processes started in a running sandbox' },
  { name: 'terminals', description: 'Processes at a pseudo-terminal, whose screen is kept: attach, detach, come back' },
  { name: 'files', description: 'Files in a running sandbox: read, write, list, move, watch, search' },
  { name: 'network', description: 'What a sandbox may reach and what reaches it' },
  { name: 'images', description: 'What sandboxes are made of: pull, look, make room' },
  { name: 'logs', description: 'What sandboxes and detached execs have written' },
  { name: 'events', description: 'What happens on this host' },
  { name: 'tokens', description: 'Who may do what: tokens of one sandbox, tickets for browsers. Ports of a sandbox are seen at /v1/sandboxes/{id}/ports/{port}/…, any method, and upgrades' },
  { name: 'host', description: 'This machine and daemon' },
  { name: 'probes', description: 'For watchers of the daemon' },
]

// The page needs nothing from elsewhere; inline styles are what the UI itself writes.
const contentSecurityPolicy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"

const errorReference = `${ErrorBody.$id}#`

/** What the document says of the whole API; each where it is not that of a host. */
export interface OpenapiFace {
  title: string
  description: string
  server: string
  tags: Array<{ name: string, description: string }>
  bearer: string
}

const hostFace: OpenapiFace = {
  title: 'Berth',
  description,
  server: 'This host',
  tags,
  bearer: 'A token of this host; scope admin may do all, read may only GET, sandbox may look at one sandbox, run execs in it and see its ports',
}

/** Must be called before routes are registered: it learns them as they come. */
export function addOpenapi (app: FastifyInstance, { version, face = hostFace }: { version: string, face?: OpenapiFace }): void {
  const documented = keepErrorsForDocument(app)
  const optionalBodies = new Set<string>()
  const keyless = new Set<string>()
  app.addHook('onRoute', route => {
    const name = route.schema?.operationId ?? ''
    if (route.config?.hasOptionalBody) optionalBodies.add(name)
    if (route.config?.answersSecret) keyless.add(name)
  })
  void app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: face.title, version, description: face.description, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      servers: [{ url: '/', description: face.server }],
      tags: face.tags,
      security: [{ bearer: [] }],
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer', description: face.bearer } } },
    },
    refResolver: { buildLocalReference: (json, _base, _fragment, index) => String(json.$id ?? `def-${index}`) },
    transform: ({ schema, url }) => ({ schema: documented.get(schema) ?? schema, url }),
    transformObject: document => {
      const { openapiObject } = document as { openapiObject: { paths?: Record<string, Record<string, Operation>> } }
      for (const [method, operation] of Object.values(openapiObject.paths ?? {}).flatMap(path => Object.entries(path))) {
        if (method === 'post' && !keyless.has(operation.operationId ?? '')) (operation.parameters ??= []).push(idempotencyKey)
        for (const media of Object.values(operation.requestBody?.content ?? {})) media.schema = withAlternatives(media.schema)
        if (operation.requestBody && optionalBodies.has(operation.operationId ?? '')) operation.requestBody.required = false
      }
      return openapiObject as never
    },
  })
  void app.register(swaggerUi, { routePrefix: '/docs', staticCSP: contentSecurityPolicy, uiConfig: { validatorUrl: null, docExpansion: 'list', deepLinking: true } })
}

/** What the validator decides by if, then and else: generators of clients understand alternatives better. */
function withAlternatives (schema: BodySchema | undefined): BodySchema | undefined {
  return schema?.then && schema.else ? { oneOf: [schema.else, schema.then] } : schema
}

/**
 * Takes the error answers out of what Fastify compiles and keeps them for the document: they are one schema,
 * but each status of each route would compile it again, which doubles the time the daemon needs to start.
 */
function keepErrorsForDocument (app: FastifyInstance): WeakMap<object, FastifySchema> {
  const documented = new WeakMap<object, FastifySchema>()
  app.addHook('onRoute', route => {
    if (!route.schema?.response) return
    const answers = Object.entries(route.schema.response).filter(([, schema]) => (schema as { $ref?: string }).$ref !== errorReference)
    const compiled = { ...route.schema, response: Object.fromEntries(answers) }
    documented.set(compiled, route.schema)
    route.schema = compiled
  })
  return documented
}
