/** Tables of what is claimed: one row per claim, with its target and whether it is met. */
import { isWithin, print, printRows, spread, targetText, type Target } from './report.ts'
import { median } from './statistics.ts'

export interface Claim {
  claim: string
  /** `''`: a ratio, or a number of things. */
  unit: 'ms' | 's' | '/s' | 'Mbit/s' | 'MB/s' | 'MB' | ''
  ours: number[]
  /** What it is compared with: ours by it is the ratio. */
  other?: { name: string, values: number[] }
  /** Absent: a figure for information. */
  target?: Target
}

export interface JudgedClaim extends Claim {
  ratio?: number
  isMet?: boolean
}

export function judgeClaims (claims: readonly Claim[]): JudgedClaim[] {
  return claims.filter(({ ours }) => ours.length > 0).map(claim => {
    const { ours, other, target } = claim
    const ratio = other && other.values.length > 0 ? median(ours) / median(other.values) : undefined
    const actual = target?.of === 'ratio' ? ratio : median(ours)
    return { ...claim, ...ratio !== undefined && { ratio }, ...target && { isMet: isWithin(target, actual ?? NaN) } }
  })
}

export function printClaims (title: string, rows: readonly JudgedClaim[]): void {
  print('')
  print(title)
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
export const atLeast = (limit: number): Target => ({ of: 'value', bound: 'at least', limit })
export const atMostRatio = (limit: number): Target => ({ of: 'ratio', bound: 'at most', limit })
export const atLeastRatio = (limit: number): Target => ({ of: 'ratio', bound: 'at least', limit })
