/** What operators set of tasks, as text: read and refused here. */
import type { LabelLimit } from './task-queue.ts'

const poolName = /^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/
const labelName = /^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/

/** `default,gpu` → pools that this host takes tasks of; `none` takes none. Throws an Error with what is wrong. */
export function parseTaskPools (text: string): string[] {
  if (text === 'none') return []
  const pools = text.split(',').map(name => name.trim()).filter(Boolean)
  for (const pool of pools) {
    if (!poolName.test(pool)) throw new Error(`${JSON.stringify(pool)} is no name of a pool: at most 63 of a-z, 0-9 and . _ -; give names separated by commas, or none`)
  }
  return [...new Set(pools)]
}

/** `team=blue:2,customer:3` → at most 2 tasks at once with team=blue, and 3 of each customer. Throws an Error with what is wrong. */
export function parseLabelLimits (text: string): LabelLimit[] {
  return text.split(',').map(part => part.trim()).filter(Boolean).map(part => {
    const cut = part.lastIndexOf(':')
    const [label = '', value] = splitOnce(part.slice(0, cut), '=')
    const max = part.slice(cut + 1)
    if (cut === -1 || !labelName.test(label) || !/^[1-9]\d{0,5}$/.test(max)) {
      throw new Error(`${JSON.stringify(part)} is no limit: give LABEL:MAX or LABEL=VALUE:MAX, for example team=blue:2,customer:3`)
    }
    return { label, max: Number(max), ...(value === undefined ? {} : { value }) }
  })
}

export function parseLabelName (text: string): string {
  if (!labelName.test(text)) throw new Error('give the name of a label: at most 63 letters, digits and . _ / -')
  return text
}

/** How many times over processors may be requested. */
export function parseOvercommit (text: string): number {
  const value = Number(text)
  if (/^\d+(\.\d+)?$/.test(text) && value >= 0.1 && value <= 64) return value
  throw new Error('give a number from 0.1 to 64')
}

function splitOnce (text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator)
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}
