/** What an event says, in a line. */
import type { Event } from '../../schemas/event.ts'
import { formatWords } from './format.ts'

/** From and to where they are there; everything else as `name value`. Long values are cut. */
export function describeEvent ({ data, execId, terminalId }: Pick<Event, 'data' | 'execId' | 'terminalId'>): string {
  const { from, to, ...rest } = data
  const change = typeof to === 'string' ? [typeof from === 'string' ? `${from} → ${to}` : to] : []
  const others = Object.entries(rest).filter(([, value]) => value !== undefined && value !== null).map(([name, value]) => `${formatWords(name)} ${shortValue(value)}`)
  return [...change, execId, terminalId, ...others].filter(part => part !== undefined).join(', ')
}

function shortValue (value: unknown): string {
  const text = typeof value === 'string' ? value.replaceAll('_', ' ') : JSON.stringify(value)
  return text.length > 120 ? `${text.slice(0, 119)}…` : text
}
