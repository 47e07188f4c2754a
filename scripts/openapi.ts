/** Writes openapi/*.json from the routes' schemas; with --check, says whether they are up to date. */
import { readFile, writeFile } from 'node:fs/promises'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { buildApp, type AppServices } from '../src/app.ts'
import { buildGatewayApp, type GatewayServices } from '../src/gateway/gateway-app.ts'
import { ProxyDoor } from '../src/gateway/proxy/proxy-door.ts'

const manifest = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
const { version } = manifest
const logger = pino({ level: 'silent' })
const metrics = (): Registry => new Registry()

/** No service is ever called, so none is there. */
const documents: ReadonlyArray<{ path: string, build: () => FastifyInstance }> = [
  { path: 'openapi/openapi.json', build: () => buildApp({ services: { metrics: metrics() } as unknown as AppServices, logger, version }) },
  {
    path: 'openapi/gateway.json',
    build: () => {
      const services = { metrics: metrics(), redis: {}, gateway: {}, sandboxes: {} } as unknown as GatewayServices
      return buildGatewayApp({ services, logger, version, rateLimit: 0, door: new ProxyDoor() })
    },
  },
]

/** The document as text. */
async function generate (build: () => FastifyInstance): Promise<string> {
  await using app = build()
  await app.ready()
  return `${JSON.stringify(app.swagger(), null, 2)}\n`
}

/** The first line where two texts differ. */
function firstDifference (left: string, right: string): string {
  const [leftLines, rightLines] = [left.split('\n'), right.split('\n')]
  const at = leftLines.findIndex((line, index) => line !== rightLines[index])
  const line = at === -1 ? leftLines.length : at
  return `line ${line + 1}:\n  in the file:  ${leftLines[line]?.trim() ?? '(end)'}\n  of the code:  ${rightLines[line]?.trim() ?? '(end)'}`
}

for (const { path, build } of documents) {
  const target = new URL(`../${path}`, import.meta.url)
  const wanted = await generate(build)
  if (!process.argv.includes('--check')) {
    await writeFile(target, wanted)
    continue
  }
  const present = await readFile(target, 'utf8').catch(() => '')
  if (present === wanted) continue
  console.error(`${path} is out of date at ${firstDifference(present, wanted)}\nrun: npm run openapi`)
  process.exitCode = 1
}
