/** Turns what the schema validator found into a sentence for people and facts for programs. */
import type { FastifySchemaValidationError } from 'fastify'
import { BerthError } from '../errors.ts'
import { patternMeaning } from '../schemas/wire.ts'

export type RequestPart = 'body' | 'querystring' | 'headers' | 'params'

/** A finding of ajv in verbose mode; which params are there depends on the keyword. */
interface Finding extends Omit<FastifySchemaValidationError, 'params'> {
  params: {
    additionalProperty?: string
    missingProperty?: string
    propertyName?: string
    limit?: number
    allowedValues?: string[]
    pattern?: string
    type?: string
  }
  parentSchema?: {
    properties?: Record<string, unknown>
    propertyNames?: { pattern?: string }
    'x-maxTotalBytes'?: number
  }
  /** Of anyOf: the forms it may have. */
  schema?: unknown
  data?: unknown
}

const longestQuote = 64
// The one format that requests have.
const timeAdvice = 'must be a time like 2026-03-01T09:30:00Z (in a URL, the + of an offset is written %2B)'
const thingOfIdPrefix: Record<string, string> = { exe: 'exec', tsk: 'task', trm: 'terminal' }

/** Text from a client, safe to show: escaped, and cut when it is long. */
export function quoted (text: string): string {
  return JSON.stringify(text.length > longestQuote ? `${text.slice(0, longestQuote)}…` : text)
}

/** The error for a part of a request that its schema refuses. */
export function validationError (findings: FastifySchemaValidationError[], part: RequestPart): BerthError {
  const finding = pickFinding(findings as Finding[])
  if (part === 'params') return idError(finding)
  const noun = part === 'body' ? 'field' : 'parameter'
  const { field, rule, words, details } = explain(finding, part)
  return new BerthError('invalid_argument', `${rule}_${noun}`, words, { details: { ...(field === '' ? {} : { field }), ...details } })
}

/**
 * With propertyNames two findings come: the name's own, then the summary; the summary is the one to show. With anyOf one comes for
 * each form and then the summary: what is wrong inside an object says more, as only one of the forms is an object.
 */
function pickFinding (findings: Finding[]): Finding {
  const [first] = findings
  const last = findings.at(-1)
  if (!first || !last) throw new Error('a validation error without findings')
  if (last.keyword !== 'anyOf') return findings.find(finding => finding.keyword === 'propertyNames') ?? first
  const inner = findings.filter(({ instancePath, keyword }) => instancePath !== last.instancePath || ['required', 'additionalProperties'].includes(keyword))
  return inner[0] ?? last
}

/** An id that cannot exist names nothing: not found, like any other id that is not there. */
function idError (finding: Finding): BerthError {
  const prefix = /^\^([a-z]{3})_/.exec(finding.params.pattern ?? '')?.[1] ?? ''
  const thing = finding.instancePath === '/digest' ? 'image' : thingOfIdPrefix[prefix] ?? 'sandbox'
  const shown = typeof finding.data === 'string' ? ` ${quoted(finding.data)}` : ''
  return new BerthError('not_found', `${thing}_not_found`, `there is no ${thing}${shown}`)
}

interface Explanation {
  field: string
  rule: 'unknown' | 'missing' | 'invalid'
  words: string
  details?: Record<string, unknown>
}

function explain (finding: Finding, part: RequestPart): Explanation {
  const path = fieldPath(finding.instancePath)
  if (finding.keyword === 'additionalProperties') return unknownField(finding, path, part)
  if (finding.keyword === 'required') {
    const field = join(path, finding.params.missingProperty ?? '')
    return { field, rule: 'missing', words: `${field} is required` }
  }
  const whole = part === 'body' ? 'the body' : 'the query'
  const subject = path === '' ? whole : path
  return { field: path, rule: 'invalid', words: `${subject} ${demand(finding)}`, details: allowed(finding) }
}

function unknownField (finding: Finding, path: string, part: RequestPart): Explanation {
  const name = finding.params.additionalProperty ?? ''
  const known = Object.keys(finding.parentSchema?.properties ?? {})
  const near = nearest(name, known)
  const what = part === 'body' ? 'field' : 'query parameter'
  const where = path === '' ? '' : ` in ${path}`
  const hint = near === undefined ? `; known are ${known.join(', ') || 'none'}` : `; did you mean ${near}?`
  const field = join(path, name.length > longestQuote ? `${name.slice(0, longestQuote)}…` : name)
  return { field, rule: 'unknown', words: `unknown ${what} ${quoted(name)}${where}${hint}`, details: near === undefined ? { known } : { nearest: near } }
}

/** What the schema asks of the value, as the rest of a sentence that begins with the field's name. */
function demand (finding: Finding): string {
  const { type = '', limit = 0, allowedValues = [], pattern = '' } = finding.params
  switch (finding.keyword) {
    case 'type': return `must be ${article(type)}`
    case 'enum': return `must be one of ${allowedValues.join(', ')}`
    case 'minimum': return `must be at least ${limit}`
    case 'maximum': return `must be at most ${limit}`
    case 'minLength': return limit === 1 ? 'must not be empty' : `must have at least ${limit} characters`
    case 'maxLength': return `must have at most ${limit} characters`
    case 'minItems': return limit === 1 ? 'must not be empty' : `must have at least ${limit} items`
    case 'maxItems': return `must have at most ${limit} items`
    case 'minProperties': return limit === 1 ? 'must name at least one field' : `must have at least ${limit} entries`
    case 'maxProperties': return `must have at most ${limit} entries`
    case 'x-maxTotalBytes': return `must have at most ${finding.parentSchema?.['x-maxTotalBytes']} bytes in all`
    case 'pattern': return patternMeaning.get(pattern) ?? `must match ${pattern}`
    case 'format': return timeAdvice
    case 'propertyNames': return badName(finding)
    case 'anyOf': return `must be ${(finding.schema as Form[]).map(formName).join(', or ')}`
    default: return finding.message ?? 'is not valid'
  }
}

interface Form {
  enum?: string[]
  $ref?: string
}

function formName (form: Form): string {
  return form.enum ? `one of ${form.enum.join(', ')}` : `an object (${form.$ref?.replace(/#$/, '') ?? 'see the reference'})`
}

function badName (finding: Finding): string {
  const name = finding.params.propertyName ?? ''
  const rule = finding.parentSchema?.propertyNames?.pattern ?? ''
  return `has the name ${quoted(name)}; ${patternMeaning.get(rule) ?? `names must match ${rule}`}`
}

function allowed (finding: Finding): Record<string, unknown> | undefined {
  const { params } = finding
  if (params.limit !== undefined) return { rule: finding.keyword, limit: params.limit }
  if (params.allowedValues !== undefined) return { rule: 'enum', allowed: params.allowedValues }
  if (params.type !== undefined) return { rule: 'type', type: params.type }
  return { rule: finding.keyword }
}

function article (type: string): string {
  return /^[aeiou]/.test(type) ? `an ${type}` : `a ${type}`
}

/** `/resources/memoryBytes` → `resources.memoryBytes`, `/argv/3` → `argv[3]`. */
function fieldPath (pointer: string): string {
  return pointer.split('/').slice(1)
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce((path, part) => /^\d+$/.test(part) && path !== '' ? `${path}[${part}]` : join(path, part.slice(0, longestQuote)), '')
}

function join (path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`
}

/** The known name that a mistyped one most likely means: at most a third of its letters off without case, or the beginning of only one. */
export function nearest (name: string, known: readonly string[]): string | undefined {
  if (name.length > longestQuote) return undefined
  const wanted = plain(name)
  let best: string | undefined
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(wanted, plain(candidate))
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  const longer = known.filter(candidate => wanted.length > 2 && plain(candidate).startsWith(wanted))
  return best ?? (longer.length === 1 ? longer[0] : undefined)
}

function plain (name: string): string {
  return name.toLowerCase().replaceAll(/[_-]/g, '')
}

/** Levenshtein distance, one row at a time. */
function editDistance (left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index)
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++) {
      const replaced = row[j - 1]! + (left[i - 1] === right[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row.at(-1)!
}
