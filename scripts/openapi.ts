/** Writes openapi/openapi.json from the routes' schemas; with --check, says whether it is up to date. */
import { readFile, writeFile } from 'node:fs/promises'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { buildApp, type AppServices } from '../src/app.ts'

const target = new URL('../openapi/openapi.json', import.meta.url)
const manifest = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }

/** The document as text. No service is ever called, so none is there. */
async function generate (): Promise<string> {
  const services = { metrics: new Registry() } as unknown as AppServices
  await using app = buildApp({ services, logger: pino({ level: 'silent' }), version: manifest.version })
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

const wanted = await generate()
if (process.argv.includes('--check')) {
  const present = await readFile(target, 'utf8').catch(() => '')
  if (present !== wanted) {
    console.error(`openapi/openapi.json is out of date at ${firstDifference(present, wanted)}\nrun: npm run openapi`)
    process.exitCode = 1
  }
} else {
  await writeFile(target, wanted)
}
