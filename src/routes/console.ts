/** The console: one page with its script and style, built ahead by `npm run setup`, held in memory. No token is needed to be given it; what it shows it asks of the API. */
import { createHash } from 'node:crypto'
import { readFile, readdir } from 'node:fs/promises'
import { extname, join } from 'node:path'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'

export interface ConsoleRouteOptions {
  /** What scripts/build-console.ts has made. */
  directory?: string
}

interface ConsoleFile {
  type: string
  etag: string
  bytes: Buffer
  br?: Buffer
  gzip?: Buffer
}

const builtConsole = join(import.meta.dirname, '../../build/console')

const types: Readonly<Record<string, string>> = Object.freeze({
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
})

/** Nothing from elsewhere, nothing inline, in nobody's frame: text of a sandbox that came to be markup would still be harmless. */
const headers = Object.freeze({
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; font-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), microphone=(), geolocation=()',
  'x-frame-options': 'DENY',
  vary: 'Accept-Encoding',
})

const isPublic = { isPublic: true }
const schema = { hide: true }

export const consoleRoutes: FastifyPluginAsync<ConsoleRouteOptions> = async (app, { directory = builtConsole }) => {
  let loaded: Promise<Map<string, ConsoleFile>> | undefined
  const load = async () => {
    loaded ??= loadFiles(directory)
    const files = await loaded
    // One that is built later is found then.
    if (files.size === 0) loaded = undefined
    return files
  }

  // Its files lie beside it, so below a prefix it has its slash.
  app.get('/', { config: isPublic, schema, prefixTrailingSlash: 'slash' }, async (request, reply) => {
    const page = (await load()).get('index.html')
    if (!page) return reply.code(503).type('text/plain; charset=utf-8').send('The console has not been built. Run: npm run setup\nThe API is described at /docs.\n')
    // The page names its files by their hash, so it alone is asked for again each time.
    return send(request, reply.header('cache-control', 'no-cache'), page)
  })

  app.get<{ Params: { file: string } }>('/console/:file', { config: isPublic, schema }, async (request, reply) => {
    const { file } = request.params
    const found = (await load()).get(file)
    if (!found || file === 'index.html') throw new BerthError('not_found', 'route_not_found', 'the console has no such file; reload the page, it may be of another version')
    return send(request, reply.header('cache-control', file.includes('-') ? 'public, max-age=31536000, immutable' : 'no-cache'), found)
  })
}

function send (request: FastifyRequest, reply: FastifyReply, { type, etag, bytes, br, gzip }: ConsoleFile): FastifyReply {
  void reply.headers(headers).type(type).header('etag', etag)
  if (request.headers['if-none-match'] === etag) return reply.code(304).send()
  const accepted = (request.headers['accept-encoding'] ?? '').split(',').map(part => part.trim().toLowerCase())
  if (br && accepted.some(part => /^br(;|$)/.test(part) && !isRefused(part))) return reply.header('content-encoding', 'br').send(br)
  if (gzip && accepted.some(part => /^gzip(;|$)/.test(part) && !isRefused(part))) return reply.header('content-encoding', 'gzip').send(gzip)
  return reply.send(bytes)
}

const isRefused = (encoding: string) => /;\s*q=0(\.0*)?$/.test(encoding)

/** Nothing where there is no such directory. */
async function loadFiles (directory: string): Promise<Map<string, ConsoleFile>> {
  const names = await readdir(directory).catch((): string[] => [])
  const read = (name: string) => names.includes(name) ? readFile(join(directory, name)) : undefined
  const files = names.filter(name => types[extname(name)] !== undefined).map(async (name): Promise<[string, ConsoleFile]> => {
    const [bytes, br, gzip] = await Promise.all([read(name)!, read(`${name}.br`), read(`${name}.gz`)])
    return [name, { type: types[extname(name)]!, etag: `W/"${createHash('sha256').update(bytes).digest('base64url').slice(0, 24)}"`, bytes, br, gzip }]
  })
  return new Map(await Promise.all(files))
}
