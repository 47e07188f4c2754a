/** The table of the network benchmark: one row per claim, with its target and whether it is met. */
import { isWithin, print, printRows, spread, targetText, type Target } from './report.ts'
import { median } from './statistics.ts'

export interface NetworkClaim {
  claim: string
  /** `''`: a ratio, or a number of things. */
  unit: 'ms' | 'Mbit/s' | 'MB/s' | 'MB' | ''
  ours: number[]
  /** What it is compared with: ours by it is the ratio. */
  other?: { name: string, values: number[] }
  /** Absent: a figure for information. */
  target?: Target
}

export interface NetworkRow extends NetworkClaim {
  ratio?: number
  isMet?: boolean
}

export function judgeNetwork (claims: readonly NetworkClaim[]): NetworkRow[] {
  return claims.filter(({ ours }) => ours.length > 0).map(claim => {
    const { ours, other, target } = claim
    const ratio = other && other.values.length > 0 ? median(ours) / median(other.values) : undefined
    const actual = target?.of === 'ratio' ? ratio : median(ours)
    return { ...claim, ...ratio !== undefined && { ratio }, ...target && { isMet: isWithin(target, actual ?? NaN) } }
  })
}

export function printNetwork (rows: readonly NetworkRow[]): void {
  print('')
  print('networks: measured in namespaces of their own; every time is of the same run, those that are compared take turns')
  printRows([
    ['', 'ours', 'other', '', 'ratio', 'target', 'met'],
    ...rows.map(({ claim, unit, ours, other, ratio, target, isMet }) => [
      `${claim} (n = ${ours.length})`,
      spread(ours, unit),
      other ? spread(other.values, unit) : '',
      other?.name ?? '',
      ratio === undefined ? '' : ratio.toFixed(2),
      target ? targetText(target, unit) : '',
      target ? isMet === true ? 'yes' : 'no' : '',
    ]),
  ])
}

export const atMost = (limit: number): Target => ({ of: 'value', bound: 'at most', limit })
export const atLeastRatio = (limit: number): Target => ({ of: 'ratio', bound: 'at least', limit })
