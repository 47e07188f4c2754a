/** Query strings carry text; these turn it into what a route's schema asks for, before the schema checks it. */
import { BerthError } from '../errors.ts'

interface PropertySchema {
  type?: string
  items?: { enum?: unknown[] }
}

/** What a route declares of its query string. */
export interface QuerySchema {
  properties?: Record<string, PropertySchema>
}

const words: Record<string, boolean> = { '': true, true: true, 1: true, false: false, 0: false }

/**
 * Changes texts in place where the schema wants something else: numbers and booleans (`?force` alone means true),
 * and lists, which repeat the parameter or, when the list is of fixed words, separate them by commas.
 * What does not fit is left as it is, for the schema to refuse.
 */
export function coerceQuery (schema: QuerySchema, query: Record<string, unknown>): void {
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const value = query[name]
    if (value === undefined) continue
    if (property.type === 'array') query[name] = list(value, property.items?.enum !== undefined)
    else if (typeof value === 'string') query[name] = scalar(value, property.type)
  }
}

function scalar (text: string, type: string | undefined): unknown {
  if (type === 'integer' && /^-?\d{1,15}$/.test(text)) return Number(text)
  if (type === 'boolean' && Object.hasOwn(words, text)) return words[text]
  return text
}

function list (value: unknown, isOfWords: boolean): unknown[] {
  const values = Array.isArray(value) ? value : [value]
  return isOfWords ? values.flatMap(text => String(text).split(',')) : values
}

/** `['k=v', …]` → `{k: 'v', …}`; each text has an `=` by schema. */
export function parseLabels (texts: readonly string[]): Record<string, string> {
  const labels = new Map<string, string>()
  for (const text of texts) {
    const cut = text.indexOf('=')
    const [name, value] = [text.slice(0, cut), text.slice(cut + 1)]
    if (labels.has(name) && labels.get(name) !== value) {
      throw new BerthError('invalid_argument', 'invalid_parameter', 'label asks for two values of one label; each has only one', { details: { field: 'label' } })
    }
    labels.set(name, value)
  }
  return Object.fromEntries(labels)
}

/** The time that a parameter names, as every time on the wire: in UTC, with milliseconds. */
export function parseTime (name: string, text: string): string {
  const time = new Date(text)
  // Not every text that the format lets pass is a time: it knows leap seconds.
  if (!Number.isNaN(time.getTime())) return time.toISOString()
  throw new BerthError('invalid_argument', 'invalid_parameter', `${name} is no time that is known here; write it like 2026-03-01T09:30:00Z`, { details: { field: name } })
}
