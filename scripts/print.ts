/** How checks and tests look on a terminal and in a log. */
import picocolors from 'picocolors'
import type { CheckResult } from './checks.ts'
import type { FileResult } from './suite.ts'

// Plain in a pipe, in CI too, where picocolors would take colours to be wanted.
export const pc = picocolors.createColors(process.stdout.isTTY === true && picocolors.isColorSupported)

/** Of a long text, at its begin and at its end. */
const keptChars = 3000

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`
const mark = (ok: boolean): string => ok ? pc.green('ok    ') : pc.red('FAILED')
const indent = (text: string, by: string): string => text.trimEnd().split('\n').map((line) => `${by}${line}\n`).join('')

/** A line of its own; what the check wrote only when it failed. */
export function printCheck ({ name, ok, durationMs, output }: CheckResult): void {
  process.stdout.write(`${mark(ok)} ${name} ${pc.dim(`(${seconds(durationMs)})`)}\n`)
  if (!ok) process.stdout.write(indent(output, '       '))
}

/** A line for the file; the tests that failed or were skipped, or all when wanted; its output when one failed. */
export function printFile ({ file, tests, output, durationMs }: FileResult, isVerbose: boolean): void {
  const hasFailed = tests.some(({ outcome }) => outcome === 'failed')
  process.stdout.write(`${mark(!hasFailed)} ${file} ${pc.dim(`(${tests.length} tests, ${seconds(durationMs)})`)}\n`)
  for (const { name, outcome, detail, durationMs: testMs } of tests) {
    if (outcome === 'passed' && !isVerbose) continue
    const sign = outcome === 'passed' ? pc.green('✓') : outcome === 'failed' ? pc.red('✗') : pc.yellow('- skipped:')
    process.stdout.write(`       ${sign} ${name} ${pc.dim(`(${seconds(testMs)})`)}\n`)
    if (outcome !== 'passed' && detail !== undefined) process.stdout.write(indent(detail, '           '))
  }
  if (hasFailed && output.trim() !== '') process.stdout.write(`       ${pc.dim('it wrote:')}\n${indent(shorten(output), '       | ')}`)
}

/** Everything that failed once more, where a log that was cut still shows it. */
export function printFailures (failures: ReadonlyArray<{ file?: string, name: string, detail?: string }>): void {
  for (const { file, name, detail = '' } of failures) {
    process.stdout.write(`${mark(false)} ${file === undefined ? '' : `${file}: `}${name}\n${detail.trim() === '' ? '' : indent(shorten(detail), '       ')}`)
  }
}

/** The begin and the end of what is too long to be looked through. */
function shorten (text: string): string {
  return text.length <= 2 * keptChars ? text : `${text.slice(0, keptChars)}\n[… ${text.length - 2 * keptChars} characters …]\n${text.slice(-keptChars)}`
}

export function printSlowest (files: readonly FileResult[], count = 5): void {
  const slowest = [...files].sort((a, b) => b.durationMs - a.durationMs).slice(0, count)
  process.stdout.write(`slowest: ${slowest.map(({ file, durationMs }) => `${file} ${seconds(durationMs)}`).join(', ')}\n`)
}
