/** The table: one row per claim, with its target and whether it is met. */
import type { ContestantName } from './contestant.ts'
import type { MachineFacts } from './machine.ts'
import { median, quantile } from './statistics.ts'

export interface Row {
  scenario: string
  unit: 'ms' | 'MB' | '/s'
  samples: Partial<Record<ContestantName, number[]>>
  target: Target
  /** What the figure consists of. */
  note?: string
}

/** ratio: ours to bare; value: ours alone. */
export interface Target {
  of: 'ratio' | 'value'
  bound: 'at most' | 'at least'
  limit: number
}

export interface Outcome extends Row {
  medians: Partial<Record<ContestantName, number>>
  ratio: number | undefined
  isMet: boolean
}

export function judge (row: Row): Outcome {
  const medians = Object.fromEntries(Object.entries(row.samples).map(([name, samples]) => [name, round(median(samples))])) as Outcome['medians']
  const ratio = medians.bare === undefined || medians.ours === undefined ? undefined : medians.ours / medians.bare
  const actual = (row.target.of === 'ratio' ? ratio : medians.ours) ?? NaN
  return { ...row, medians, ratio, isMet: isWithin(row.target, actual) }
}

export function isWithin ({ bound, limit }: Target, actual: number): boolean {
  return bound === 'at most' ? actual <= limit : actual >= limit
}

const contestants: readonly ContestantName[] = ['ours', 'bare', 'podman']

export function printMachine (facts: MachineFacts, n: number): void {
  const versions = Object.entries(facts.versions).map(([name, version]) => `${name} ${version}`)
  const settings = Object.entries(facts.settings).map(([name, value]) => `${name}=${value}`)
  print(`${facts.cores} cores (${facts.cpu}), ${facts.memoryGiB} GiB, Linux ${facts.kernel}, node ${facts.node}, ${versions.join(', ')}`)
  print(`load before: ${facts.loadBefore.toFixed(2)}; --n ${n}; medians, and between which values the middle half lies${settings.length > 0 ? `; with ${settings.join(' ')}` : ''}`)
}

/** As GitHub's Markdown, which reads well on a terminal too. */
export function printTable (outcomes: readonly Outcome[], podman: string): void {
  const rows = outcomes.map(outcome => [
    `${outcome.scenario} (n = ${outcome.samples.ours?.length ?? 0})`,
    ...contestants.map(name => cell(outcome, name)),
    outcome.ratio === undefined ? '' : outcome.ratio.toFixed(2),
    targetText(outcome.target, outcome.unit),
    outcome.isMet ? 'yes' : 'no',
  ])
  printRows([['', 'ours', 'bare runsc', 'podman', 'ours / bare', 'target', 'met'], ...rows])
  for (const { scenario, note } of outcomes) if (note) print(`${scenario}: ${note}`)
  print(`podman: ${podman}`)
}

/** A table; the first row is its head. */
export function printRows (table: ReadonlyArray<readonly string[]>): void {
  const widths = table[0]?.map((_title, column) => Math.max(...table.map(row => row[column]?.length ?? 0))) ?? []
  const line = (row: readonly string[]) => `| ${row.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`
  print('')
  print(line(table[0] ?? []))
  print(`|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`)
  for (const row of table.slice(1)) print(line(row))
  print('')
}

export function targetText ({ of, bound, limit }: Target, unit: string): string {
  return `${of === 'ratio' ? 'ratio ' : ''}${bound === 'at most' ? '≤' : '≥'} ${limit}${of === 'value' && unit !== '' ? ` ${unit}` : ''}`
}

function cell (outcome: Outcome, name: ContestantName): string {
  const samples = outcome.samples[name]
  return samples ? spread(samples, outcome.unit) : ''
}

/** Median, and between which values the middle half lies. */
export function spread (samples: readonly number[], unit: string): string {
  const middle = `${round(median(samples))} ${unit}`.trimEnd()
  return samples.length < 3 ? middle : `${middle} (${round(quantile(samples, 0.25))}–${round(quantile(samples, 0.75))})`
}

/** Three digits that count. */
function round (value: number): number {
  return Number(value.toPrecision(3))
}

export function print (text: string): void {
  process.stdout.write(`${text}\n`)
}
