/** What operators set of a fleet, as text: read and refused here. */
import { parseTaskPools } from '../tasks/task-settings.ts'

const labelName = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/
const labelValue = /^[A-Za-z0-9._/-]{0,63}$/
const maxLabels = 16
const prefixPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/

export interface FleetSettings {
  gateway: string
  gatewayTokenFile: string
  gatewayCaFile: string
  gatewayCertFile: string
  gatewayKeyFile: string
  redis: string
  advertise: string
}

/** What does not fit together; undefined when all does. */
export function problemOfFleetSettings (settings: FleetSettings): string | undefined {
  const { gateway, gatewayTokenFile, gatewayCaFile, gatewayCertFile, gatewayKeyFile, advertise } = settings
  if (gateway !== '' && gatewayTokenFile === '') return 'BERTH_GATEWAY needs BERTH_GATEWAY_TOKEN_FILE: make a token of scope worker at the gateway, POST /v1/tokens'
  if ((gatewayCertFile === '') !== (gatewayKeyFile === '')) return 'BERTH_GATEWAY_CERT_FILE and BERTH_GATEWAY_KEY_FILE belong together: give both or neither'
  if (gatewayCertFile !== '' && gatewayCaFile === '') return 'BERTH_GATEWAY_CERT_FILE needs BERTH_GATEWAY_CA_FILE: without it the connection is plain text'
  if (advertise !== '' && gateway === '') return 'BERTH_ADVERTISE needs BERTH_GATEWAY: there is nobody to tell the address to'
  return undefined
}

/** The name of one pool. Throws an Error with what is wrong. */
export function parsePool (text: string): string {
  const pools = parseTaskPools(text)
  if (pools.length !== 1) throw new Error('give the name of one pool')
  return pools[0]!
}

/** Where the gateway reaches this host's API, without a slash at its end. Throws an Error with what is wrong. */
export function parseAdvertise (text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '' || url.pathname !== '/') {
    throw new Error('give the address at which the gateway reaches this API: http://HOST:PORT or https://HOST:PORT')
  }
  return url.origin
}

/** `zone=a,gpu=none` → labels. Throws an Error with what is wrong. */
export function parseWorkerLabels (text: string): ReadonlyMap<string, string> {
  const parts = text.split(',').map(part => part.trim()).filter(Boolean)
  if (parts.length > maxLabels) throw new Error(`give at most ${maxLabels} labels`)
  return new Map(parts.map((part): [string, string] => {
    const cut = part.indexOf('=')
    const [name, value] = [part.slice(0, cut), part.slice(cut + 1)]
    if (cut === -1 || !labelName.test(name) || !labelValue.test(value)) throw new Error(`${JSON.stringify(part)} is no label: give NAME=VALUE, at most 63 letters, digits and . _ / - each`)
    return [name, value]
  }))
}

/** Throws an Error with what is wrong. */
export function parseRedisPrefix (text: string): string {
  if (!prefixPattern.test(text)) throw new Error('give at most 63 letters, digits and . _ -')
  return text
}
