/** docs/configuration.md says what src/config.ts does. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { readConfig, type Config } from '../../../src/config.ts'

const repo = new URL('../../../', import.meta.url)

interface Row {
  variable: string
  flag: string
  fallback: string
}

/** The rows of the table of settings. */
function documentedSettings (): Row[] {
  const text = readFileSync(new URL('docs/configuration.md', repo), 'utf8')
  return [...text.matchAll(/^\| `(BERTH_\w+)` \| (?:`(--[\w-]+)`)? ?\| (?:`([^`]*)`)? ?\|/gm)]
    .map(([, variable = '', flag = '', fallback = '']) => ({ variable, flag, fallback }))
}

/** Which variables readConfig asks for, in its order, and the configuration without any. */
function actualSettings (): { variables: string[], config: Config } {
  const variables: string[] = []
  const environment = new Proxy({}, { get: (_target, name) => { if (String(name).startsWith('BERTH_')) variables.push(String(name)) } })
  return { config: readConfig({}, environment), variables }
}

function asText (value: unknown): string {
  // Directories cannot hold a colon, hosts cannot hold a comma.
  if (Array.isArray(value)) return value.join(value.some(item => String(item).includes(':')) ? ',' : ':')
  if (value instanceof Map) return [...value].join(';')
  if (typeof value === 'object' && value !== null && 'host' in value && 'port' in value) return `${value.host}:${value.port}`
  return String(value).replace(/^\/root\//, '~/')
}

test('every setting has a row in docs/configuration.md, and every row a setting', () => {
  assert.deepEqual(documentedSettings().map(({ variable }) => variable), actualSettings().variables)
})

test('docs/configuration.md gives the real defaults', () => {
  const { config, variables } = actualSettings()
  const values = Object.values(config)
  for (const { variable, fallback } of documentedSettings()) assert.equal(fallback, asText(values[variables.indexOf(variable)]), variable)
})

test('docs/configuration.md has the flags that berth serve takes', () => {
  const help = execFileSync(process.execPath, ['src/main.ts', 'serve', '--help'], { cwd: repo, encoding: 'utf8' })
  const flags = [...help.matchAll(/^ +(?:-\w, )?(--[\w-]+)/gm)].map(([, flag = '']) => flag).filter(flag => flag !== '--help')
  assert.deepEqual(documentedSettings().flatMap(({ flag }) => flag === '' ? [] : [flag]).sort(), flags.sort())
})
