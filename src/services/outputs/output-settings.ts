/** What an output may say: which field belongs to which type, and what the host must offer for it. */
import { BerthError } from '../../errors.ts'
import type { OutputType } from '../../schemas/output.ts'
import { OutputSpec, type OutputView } from '../../schemas/output.ts'

/** What this host offers to outputs. */
export interface OutputSettings {
  /** There is a directory for outputs of the type file. */
  hasOutputDir: boolean
  /** There is an access token for S2. */
  hasS2: boolean
  /** The basin of the host, for outputs that name none. */
  s2Basin?: string | undefined
}

type Field = Exclude<keyof OutputSpec, 'type'>

const fieldsOf: Readonly<Record<OutputType, readonly Field[]>> = {
  console: [],
  file: ['name', 'format'],
  s2: ['basin'],
  webhook: ['url', 'secret'],
  fleet: [],
}
const signingPrefix = 'whsec_'
const minKeyBytes = 16

/** @throws BerthError invalid_argument `invalid_output` for the first output that cannot be. */
export function checkOutputSpecs (specs: readonly OutputSpec[], settings: OutputSettings): void {
  const seen = new Set<string>()
  for (const [index, spec] of specs.entries()) {
    const problem = problemOf(spec, settings)
    if (problem !== undefined) throw new BerthError('invalid_argument', 'invalid_output', `outputs[${index}]: ${problem}`, { details: { index } })
    const place = `${destinationOf(spec)} ${spec.type === 'file' ? spec.name ?? spec.format ?? 'text' : ''}`
    if (seen.has(place)) {
      throw new BerthError('invalid_argument', 'invalid_output', `outputs[${index}]: it goes where another output of this task goes already; leave one of them out`, { details: { index } })
    }
    seen.add(place)
  }
}

/**
 * Reads `console,s2` or a JSON array of outputs.
 *
 * @throws Error that says what is wrong.
 */
export function parseOutputs (text: string): OutputSpec[] {
  if (!text.trimStart().startsWith('[')) {
    return text.split(',').map(word => word.trim()).filter(word => word !== '').map(word => readSpec({ type: word }))
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new Error('it begins like a JSON array, and is none')
  }
  if (!Array.isArray(value) || value.length > 8) throw new Error('give at most 8 outputs')
  return value.map(readSpec)
}

/** The output without its secret. */
export function viewOf (spec: OutputSpec): OutputView {
  const { secret, ...shown } = spec
  return { ...shown, ...(spec.type === 'webhook' ? { isSigned: secret !== undefined } : {}) }
}

/** What fails together: one name for all outputs that depend on the same destination. */
export function destinationOf (spec: OutputSpec): string {
  switch (spec.type) {
    case 'webhook': return `webhook ${spec.url}`
    case 's2': return `s2 ${spec.basin ?? ''}`
    case 'console':
    case 'fleet':
    case 'file': return spec.type
  }
}

/** The key that a webhook's secret stands for: what is behind `whsec_` in base64, or the text itself. */
export function signingKey (secret: string): Buffer {
  return secret.startsWith(signingPrefix) ? Buffer.from(secret.slice(signingPrefix.length), 'base64') : Buffer.from(secret)
}

function problemOf (spec: OutputSpec, settings: OutputSettings): string | undefined {
  const allowed = fieldsOf[spec.type]
  for (const field of Object.keys(spec) as (keyof OutputSpec)[]) {
    if (field !== 'type' && spec[field] !== undefined && !allowed.includes(field)) return `${field} does not belong to an output of type ${spec.type}; leave it out`
  }
  switch (spec.type) {
    case 'console': return undefined
    case 'fleet': return 'only the host itself sends output to the fleet that a task came from; choose another type'
    case 'file': return settings.hasOutputDir ? undefined : 'this host keeps no output files; set BERTH_OUTPUT_DIR, or choose another type'
    case 's2': return problemOfS2(spec, settings)
    case 'webhook': return problemOfWebhook(spec)
  }
}

function problemOfS2 (spec: OutputSpec, settings: OutputSettings): string | undefined {
  if (!settings.hasS2) return 'this host has no access to S2; set BERTH_S2_ACCESS_TOKEN_FILE, or choose another type'
  if (spec.basin === undefined && !settings.s2Basin) return 'this host has no basin of its own; give one as basin, or set BERTH_S2_BASIN'
  return undefined
}

function problemOfWebhook ({ url: text, secret }: OutputSpec): string | undefined {
  if (text === undefined) return 'a webhook needs a url'
  const url = URL.parse(text)
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:')) return 'url must be an http:// or https:// URL'
  if (url.username !== '' || url.password !== '') return 'url must not hold a user name or password; sign what is posted with a secret, which is never shown'
  if (secret?.startsWith(signingPrefix)) {
    const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(secret.slice(signingPrefix.length))
    if (!isBase64 || signingKey(secret).length < minKeyBytes) return `behind whsec_ the secret must be base64 of at least ${minKeyBytes} bytes`
  }
  return undefined
}

function readSpec (value: unknown): OutputSpec {
  if (typeof value !== 'object' || value === null) throw new Error('each output must be an object with a type')
  const spec = value as Record<string, unknown>
  const types = Object.keys(fieldsOf)
  if (!types.includes(String(spec['type']))) throw new Error(`the type of an output is one of ${types.join(', ')}`)
  for (const [field, content] of Object.entries(spec)) {
    const schema = (OutputSpec.properties as Record<string, { pattern?: string, minLength?: number, maxLength?: number } | undefined>)[field]
    if (!schema) throw new Error('an output has a field that there is none of')
    const isFine = typeof content === 'string' && content.length >= (schema.minLength ?? 0) && content.length <= (schema.maxLength ?? Infinity) &&
      (schema.pattern === undefined || new RegExp(schema.pattern).test(content)) && (field !== 'format' || content === 'text' || content === 'ndjson')
    // The value may be a secret.
    if (!isFine) throw new Error(`${field} of an output is not as it must be`)
  }
  return spec as OutputSpec
}
