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
  const { of, bound, limit } = row.target
  const actual = (of === 'ratio' ? ratio : medians.ours) ?? NaN
  return { ...row, medians, ratio, isMet: bound === 'at most' ? actual <= limit : actual >= limit }
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
    `${outcome.target.of === 'ratio' ? 'ratio ' : ''}${outcome.target.bound === 'at most' ? '≤' : '≥'} ${outcome.target.limit}${outcome.target.of === 'value' ? ` ${outcome.unit}` : ''}`,
    outcome.isMet ? 'yes' : 'no',
  ])
  const table = [['', 'ours', 'bare runsc', 'podman', 'ours / bare', 'target', 'met'], ...rows]
  const widths = table[0]?.map((_title, column) => Math.max(...table.map(row => row[column]?.length ?? 0))) ?? []
  const line = (row: readonly string[]) => `| ${row.map((text, column) => text.padEnd(widths[column] ?? 0)).join(' | ')} |`
  print('')
  print(line(table[0] ?? []))
  print(`|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`)
  for (const row of rows) print(line(row))
  print('')
  for (const { scenario, note } of outcomes) if (note) print(`${scenario}: ${note}`)
  print(`podman: ${podman}`)
}

/** Median, and between which values the middle half lies. */
function cell (outcome: Outcome, name: ContestantName): string {
  const { samples: { [name]: samples }, unit, medians: { [name]: middle } } = outcome
  if (!samples || middle === undefined) return ''
  const spread = samples.length < 3 ? '' : ` (${round(quantile(samples, 0.25))}–${round(quantile(samples, 0.75))})`
  return `${middle} ${unit}${spread}`
}

/** Three digits that count. */
function round (value: number): number {
  return Number(value.toPrecision(3))
}

function print (text: string): void {
  process.stdout.write(`${text}\n`)
}
