/** What a gateway is told, and that docs/gateway-configuration.md says so. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { readGatewayConfig, type GatewayConfig } from '../../../../src/gateway-config.ts'

const repo = new URL('../../../../', import.meta.url)

/** The rows of the table of settings. */
function documented (): Array<{ variable: string, flag: string, fallback: string }> {
  const text = readFileSync(new URL('docs/gateway-configuration.md', repo), 'utf8')
  return [...text.matchAll(/^\| `(BERTH_\w+)` \| (?:`(--[\w-]+)`)? ?\| (?:`([^`]*)`)? ?\|/gm)]
    .map(([, variable = '', flag = '', fallback = '']) => ({ variable, flag, fallback }))
}

/** Which variables are asked for, in their order, and the configuration without any. */
function actual (): { variables: string[], config: GatewayConfig } {
  const variables: string[] = []
  const environment = new Proxy({}, { get: (_target, name) => { if (String(name).startsWith('BERTH_')) variables.push(String(name)) } })
  return { config: readGatewayConfig({}, environment), variables }
}

function asText (value: unknown): string {
  return typeof value === 'object' && value !== null && 'host' in value && 'port' in value ? `${value.host}:${value.port}` : String(value)
}

test('every setting of a gateway has a row in its document, with its real default, and every row a setting', () => {
  const { config, variables } = actual()
  assert.deepEqual(documented().map(({ variable }) => variable), variables)
  const values = Object.values(config)
  for (const { variable, fallback } of documented()) assert.equal(fallback, asText(values[variables.indexOf(variable)]), variable)
})

test('the document has the flags that berth gateway takes', () => {
  const help = execFileSync(process.execPath, ['src/main.ts', 'gateway', '--help'], { cwd: repo, encoding: 'utf8' })
  const flags = [...help.matchAll(/^ +(?:-\w, )?(--[\w-]+)/gm)].map(([, flag = '']) => flag).filter(flag => flag !== '--help')
  assert.deepEqual(documented().flatMap(({ flag }) => flag === '' ? [] : [flag]).sort(), flags.sort())
})

test('all problems are told at once, each by the name of what was set', () => {
  const environment = { BERTH_GATEWAY_GRPC_LISTEN: 'nowhere', BERTH_GATEWAY_RATE_LIMIT: '-1', BERTH_GATEWAY_IPV4_POOL: '8.8.8.0/24', BERTH_GATEWAY_TLS_CERT_FILE: '/c.pem' }
  assert.throws(() => readGatewayConfig({ redis: 'http://nowhere', tokenFile: '/t' }, environment), (error: Error & { code: string }) => {
    assert.equal(error.code, 'invalid_config')
    const lines = error.message.split('\n')
    assert.deepEqual(lines.map(line => /^(?:--|BERTH_)[\w-]+/.exec(line)?.[0]), ['--redis', 'BERTH_GATEWAY_GRPC_LISTEN', 'BERTH_GATEWAY_IPV4_POOL', 'BERTH_GATEWAY_RATE_LIMIT', 'BERTH_GATEWAY_TLS_CERT_FILE'])
    return true
  })
})

test('a flag wins over its variable', () => {
  const { listen, tokenFile } = readGatewayConfig({ listen: '[::1]:1', tokenFile: '/flag' }, { BERTH_GATEWAY_LISTEN: '127.0.0.1:2', BERTH_GATEWAY_ADMIN_TOKEN_FILE: '/variable' })
  assert.deepEqual({ listen, tokenFile }, { listen: { host: '::1', port: 1 }, tokenFile: '/flag' })
})
