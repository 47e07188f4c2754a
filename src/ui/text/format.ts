/** Figures and times in words that are short enough for a table. */

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

/** 1536 → `1.5 KiB`. */
export function formatBytes (bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1
  return `${value.toFixed(digits).replace(/\.0$/, '')} ${units[unit]}`
}

/** 1500 → `1.5 cores`. */
export function formatCores (cpuMillis: number): string {
  const cores = Math.round(cpuMillis / 10) / 100
  return `${cores} ${cores === 1 ? 'core' : 'cores'}`
}

const steps: readonly [unit: string, seconds: number][] = [['d', 86_400], ['h', 3600], ['m', 60], ['s', 1]]

/** A length of time in its two largest units: 3_725_000 → `1h 2m`. What is below a second is `0s`. */
export function formatDuration (ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000))
  const first = steps.findIndex(([, length]) => seconds >= length)
  if (first === -1) return '0s'
  const [unit, length] = steps[first]!
  const next = steps[first + 1]
  const rest = next === undefined ? 0 : Math.floor((seconds % length) / next[1])
  const head = `${Math.floor(seconds / length)}${unit}`
  return rest === 0 || next === undefined ? head : `${head} ${rest}${next[0]}`
}

/** How long ago that was, in one unit: nobody needs more, and it changes less often. */
export function formatAge (at: string, now: number): string {
  return `${formatDuration(now - Date.parse(at)).split(' ')[0]} ago`
}

/** What is left until then; `due` when nothing is. */
export function formatRemaining (at: string, now: number): string {
  const left = Date.parse(at) - now
  return left <= 0 ? 'due' : formatDuration(left)
}

/** In the reader's own time zone, to the second. */
export function formatTime (at: string): string {
  const date = new Date(at)
  return Number.isNaN(date.getTime()) ? at : date.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
}

/** The time of day alone, with milliseconds, for logs. */
export function formatClock (at: string): string {
  const date = new Date(at)
  if (Number.isNaN(date.getTime())) return at
  const two = (value: number) => String(value).padStart(2, '0')
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

/** The time of day; for another day than today with its date. */
export function formatMoment (at: string, now: number): string {
  const date = new Date(at)
  if (date.toDateString() === new Date(now).toDateString()) return formatClock(at)
  return `${date.toLocaleDateString(undefined, { month: 'short', day: 'numeric' })} ${formatClock(at).slice(0, 8)}`
}

/** 0.257 → `26 %`. */
export function formatShare (share: number): string {
  return `${Math.round(share * 100)} %`
}

/** `sha256:0123…` without most of it. */
export function shortDigest (digest: string): string {
  return digest.replace(/^(sha256:)?([a-f0-9]{12})[a-f0-9]{52}$/, '$2')
}

/** `out_of_memory` → `out of memory`, `exitCode` → `exit code`. */
export function formatWords (code: string): string {
  return code.replaceAll('_', ' ').replace(/([a-z])([A-Z])/g, (_, before: string, after: string) => `${before} ${after.toLowerCase()}`)
}

/** How something ended, in a few words. */
export function formatEnd ({ reason, exitCode, signal }: { reason: string, exitCode?: number, signal?: string }): string {
  if (signal !== undefined) return `${formatWords(reason)} (${signal})`
  if (exitCode !== undefined && reason === 'exited') return `exit code ${exitCode}`
  return exitCode === undefined ? formatWords(reason) : `${formatWords(reason)} (${exitCode})`
}
