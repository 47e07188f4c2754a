import { BerthError } from '../errors.ts'

const durationUnits: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
// Binary multiples under decimal letters, as docker reads them: 512m is 512 MiB.
const sizeUnits: Record<string, number> = { '': 1, b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 }
const rateUnits: Record<string, number> = { '': 1, k: 1e3, m: 1e6, g: 1e9 }

/** Milliseconds of `30s`, `1h30m`, `500ms`; a bare number is seconds, as for timeout(1). */
export function parseDuration (text: string, option: string): number {
  if (/^\d+(\.\d+)?$/.test(text)) return Math.round(Number(text) * 1000)
  if (!/^(\d+(\.\d+)?(ms|[smhd]))+$/.test(text)) {
    throw invalid(`${option}: '${text}' is not a duration; write it like 30s, 5m or 1h30m`)
  }
  let sum = 0
  for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|[smhd])/g)) sum += Number(number) * (durationUnits[unit ?? 's'] ?? 0)
  return Math.round(sum)
}

/** Bytes of `512m`, `1.5g`, `64MiB` or a bare number. */
export function parseSize (text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text)
  if (!match) throw invalid(`${option}: '${text}' is not a size; write it like 512m or 1g`)
  return Math.round(Number(match[1]) * (sizeUnits[(match[2] ?? '').toLowerCase()] ?? 1))
}

/** Bits a second of `10mbit`, `1.5gbit`, `500k` or a bare number; the letters are decimal, as tc(8) has them. */
export function parseBitRate (text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmg]?)(?:bit)?$/i.exec(text)
  if (!match) throw invalid(`${option}: '${text}' is not a rate in bits a second; write it like 10mbit or 500kbit`)
  return Math.round(Number(match[1]) * (rateUnits[(match[2] ?? '').toLowerCase()] ?? 1))
}

/** A whole number that is not negative. */
export function parseCount (text: string, option: string): number {
  if (!/^\d{1,15}$/.test(text)) throw invalid(`${option}: '${text}' is not a whole number`)
  return Number(text)
}

/** Thousandths of a core of `--cpus 1.5`. */
export function parseCpus (text: string, option: string): number {
  if (!/^(\d+(\.\d+)?|\.\d+)$/.test(text)) throw invalid(`${option}: '${text}' is not a number of cores; write it like 0.5 or 2`)
  return Math.round(Number(text) * 1000)
}

const steps: Array<[limitSeconds: number, unitSeconds: number, one: string, many: string]> = [
  [60, 1, '1 second', 'seconds'],
  [3600, 60, '1 minute', 'minutes'],
  [2 * 86_400, 3600, '1 hour', 'hours'],
  [14 * 86_400, 86_400, '1 day', 'days'],
  [60 * 86_400, 7 * 86_400, '1 week', 'weeks'],
  [Infinity, 30 * 86_400, '1 month', 'months'],
]

/** A time span in the one unit a person would say it in: `5 minutes`. */
export function describeSpan (ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000))
  if (seconds < 1) return 'less than a second'
  for (const [limit, unit, one, many] of steps) {
    if (seconds >= limit) continue
    const count = Math.floor(seconds / unit)
    return count === 1 ? one : `${count} ${many}`
  }
  return ''
}

/** `240 ms`, `1.3 s`: for timings. */
export function describeMs (ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}

/** `512 MiB`, `1.5 GiB`. */
export function describeSize (bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** `10 Mbit/s`, `1.5 Gbit/s`. */
export function describeBitRate (bitsPerSecond: number): string {
  const [unit, name] = bitsPerSecond >= 1e9 ? [1e9, 'Gbit/s'] : bitsPerSecond >= 1e6 ? [1e6, 'Mbit/s'] : [1e3, 'kbit/s']
  return `${Number((bitsPerSecond / unit).toFixed(1))} ${name}`
}

function invalid (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
