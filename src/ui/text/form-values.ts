/** What people write into fields, and the values it stands for. Each throws an Error that says what to write. */

/** A `NAME=value` a line; empty lines do not count. */
export function parsePairs (text: string): Record<string, string> | undefined {
  const pairs: [string, string][] = []
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue
    const at = line.indexOf('=')
    if (at < 1) throw new Error(`"${line.trim()}" is not of the form NAME=value`)
    pairs.push([line.slice(0, at).trim(), line.slice(at + 1)])
  }
  return pairs.length === 0 ? undefined : Object.fromEntries(pairs)
}

const byteUnits: Readonly<Record<string, number>> = Object.freeze({ '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 })

/** `512m`, `2 GiB`, `1.5g` → bytes; nothing → undefined. */
export function parseBytes (text: string): number | undefined {
  if (text.trim() === '') return undefined
  const [, figure, unit = ''] = /^([\d.]+)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? []
  const value = Number(figure) * (byteUnits[unit.toLowerCase()] ?? NaN)
  if (!Number.isFinite(value)) throw new Error(`"${text}" is not a size; write 512m or 2g`)
  return Math.round(value)
}

const timeUnits: Readonly<Record<string, number>> = Object.freeze({ ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 })

/** `90s`, `10m`, `1h 30m` → milliseconds; nothing → undefined. A bare number is seconds. */
export function parseDuration (text: string): number | undefined {
  const trimmed = text.trim().toLowerCase()
  if (trimmed === '') return undefined
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000)
  const parts = [...trimmed.matchAll(/(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*/g)]
  if (parts.length === 0 || parts.map(([all]) => all).join('') !== trimmed) throw new Error(`"${text}" is not a length of time; write 90s, 10m or 1h 30m`)
  return Math.round(parts.reduce((sum, [, figure, unit]) => sum + Number(figure) * timeUnits[unit!]!, 0))
}

/** `0.5` cores → 500; nothing → undefined. */
export function parseCores (text: string): number | undefined {
  if (text.trim() === '') return undefined
  const cores = Number(text)
  if (!Number.isFinite(cores) || cores <= 0) throw new Error(`"${text}" is not a number of cores; write 0.5 or 2`)
  return Math.round(cores * 1000)
}

/** A whole number; nothing → undefined. */
export function parseWhole (text: string): number | undefined {
  if (text.trim() === '') return undefined
  if (!/^-?\d+$/.test(text.trim())) throw new Error(`"${text}" is not a whole number`)
  return Number(text)
}

/** Words separated by blanks, commas or lines. */
export function parseList (text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean)
}
