/** The dashboard asks for metrics that there are. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { collectDefaultMetrics, Registry } from 'prom-client'

const repo = fileURLToPath(new URL('../../../', import.meta.url))

interface Panel { id: number, title: string, type: string, gridPos: { x: number, y: number, w: number, h: number }, targets?: Array<{ expr: string }> }
const dashboard = JSON.parse(readFileSync(`${repo}deploy/grafana/berth.json`, 'utf8')) as { panels: Panel[], templating: { list: Array<{ name: string }> } }

/** Names that src registers, and those of the Node process. */
function registeredMetrics (): Set<string> {
  const sources = globSync('src/**/*.ts', { cwd: repo }).map(name => readFileSync(repo + name, 'utf8')).filter(text => text.includes('prom-client'))
  const own = sources.flatMap(text => [...text.matchAll(/['`](berth_[\w${}]+)['`]/g)].map(([, name = '']) => name))
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const all = [...own.flatMap(name => /\$\{unit\}/.test(name) ? ['packets', 'bytes'].map(unit => name.replace(/\$\{unit\}/, unit)) : [name]), ...registry.getMetricsAsArray().map(({ name }) => name)]
  registry.clear()
  return new Set(all)
}

test('every metric that a panel or a document asks for is one that the code registers', () => {
  const registered = registeredMetrics()
  const documents = ['docs/runbook.md', 'docs/observability.md', 'docs/operating.md'].map(name => readFileSync(repo + name, 'utf8')).join('\n')
  const asked = [...dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)), documents]
    .flatMap(text => [...text.matchAll(/\b(berth_(?!run\b)[a-z_]+|nodejs_[a-z0-9_]+|process_[a-z_]+)\b/g)].map(([, name = '']) => name))
  assert.ok(asked.length > 20)
  const isThere = (name: string): boolean => registered.has(name) || registered.has(name.replace(/_(bucket|count|sum)$/, ''))
  assert.deepEqual([...new Set(asked.filter(name => !isThere(name)))], [])
})

test('panels lie beside each other, and use the variables that there are', () => {
  const variables = dashboard.templating.list.map(({ name }) => name)
  for (const { targets = [], title } of dashboard.panels) {
    for (const { expr } of targets) for (const [, name = ''] of expr.matchAll(/\$(\w+)/g)) assert.ok(name.startsWith('__') || variables.includes(name), `${title}: $${name}`)
  }
  assert.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length)
  for (const { gridPos: { x, w }, title } of dashboard.panels) assert.ok(x + w <= 24, title)
})
