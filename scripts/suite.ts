/** Runs test files, one Node process each, and counts what they say. */
import { globSync } from 'node:fs'
import { relative } from 'node:path'
import { inspect } from 'node:util'
import { run } from 'node:test'
import { repo } from './checks.ts'

export interface TestCase {
  name: string
  outcome: 'passed' | 'failed' | 'skipped'
  durationMs: number
  /** Why it failed or was skipped. */
  detail?: string
}

export interface FileResult {
  file: string
  tests: TestCase[]
  durationMs: number
  /** What the file wrote. */
  output: string
}

export interface SuiteOptions {
  /** Files at a time. */
  concurrency: number
  grep?: RegExp
  /** For a file in all. */
  timeoutMs?: number
  report: (result: FileResult) => void
}

const defaultTimeoutMs = 10 * 60_000

/** Paths of test files, sorted, from the root of the checkout. */
export function findTestFiles (folder: string): string[] {
  return globSync(`${folder}/**/*.test.ts`, { cwd: repo }).sort()
}

/** Runs the files and answers with a result for each, in the order in which they ended. */
export async function runFiles (files: readonly string[], options: SuiteOptions): Promise<FileResult[]> {
  const results: FileResult[] = []
  const waiting = [...files]
  const work = async (): Promise<void> => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const result = await runFile(file, options)
      // With a pattern, a file of which nothing matches is no news.
      if (options.grep !== undefined && result.tests.length === 0) continue
      results.push(result)
      options.report(result)
    }
  }
  await Promise.all(Array.from({ length: options.concurrency }, work))
  return results
}

interface TestEvent {
  name: string
  nesting: number
  skip?: string | boolean
  todo?: string | boolean
  details: { duration_ms: number, type?: string, error?: Error & { failureType?: string } }
}

async function runFile (file: string, { grep, timeoutMs = defaultTimeoutMs }: SuiteOptions): Promise<FileResult> {
  const startedAt = performance.now()
  const path = `${repo}/${file}`
  const tests: TestCase[] = []
  const open: string[] = []
  let output = ''
  let crash: TestCase | undefined
  // Node's own timeout is for each test; a file that has run its tests and does not end is ended by the signal.
  const signal = AbortSignal.timeout(timeoutMs)
  const stream = run({ files: [path], cwd: repo, signal, isolation: 'process', concurrency: 1, testNamePatterns: grep })
  for await (const { type, data } of stream) {
    if (type === 'test:stdout' || type === 'test:stderr') output += data.message
    else if (type === 'test:start') open[data.nesting] = data.name
    else if (type === 'test:pass' || type === 'test:fail') {
      const event = data as TestEvent
      // Node reports the file itself as a test when it ran none, or ended badly.
      if (event.name === path) {
        if (type === 'test:fail') crash = { name: `${file} runs to its end`, outcome: 'failed', durationMs: event.details.duration_ms, detail: signal.aborted ? `it did not end within ${timeoutMs / 1000} s` : explain(event.details.error) }
        continue
      }
      const test = toTestCase(type === 'test:pass', [...open.slice(0, event.nesting), event.name].join(' › '), event)
      if (test !== undefined) tests.push(test)
    }
  }
  if (crash !== undefined) tests.push(crash)
  if (tests.length === 0 && grep === undefined) tests.push({ name: `${file} has tests`, outcome: 'failed', durationMs: 0, detail: 'the file ran no test' })
  return { file: relative(repo, path), tests, output, durationMs: performance.now() - startedAt }
}

function toTestCase (hasPassed: boolean, name: string, { details, skip, todo }: TestEvent): TestCase | undefined {
  const base = { name, durationMs: details.duration_ms }
  // A suite's tests are counted; the suite itself only when it fails by itself, as by a hook.
  if (details.type === 'suite' && (hasPassed || details.error?.failureType === 'subtestsFailed')) return undefined
  if (isSet(skip) || isSet(todo)) return { ...base, outcome: 'skipped', detail: [skip, todo].find((reason) => typeof reason === 'string' && reason !== '') as string | undefined ?? (isSet(skip) ? 'skipped' : 'to do') }
  return hasPassed ? { ...base, outcome: 'passed' } : { ...base, outcome: 'failed', detail: explain(details.error) }
}

const isSet = (mark: string | boolean | undefined): boolean => mark !== undefined && mark !== false

function explain (error: (Error & { failureType?: string }) | undefined): string {
  if (error === undefined) return 'no reason given'
  if (error.failureType === 'subtestsFailed') return error.message
  // Node wraps what the test threw.
  const cause: unknown = error.cause
  return cause instanceof Error ? inspect(cause, { depth: 4 }) : `${error.message}${cause === undefined ? '' : `: ${inspect(cause)}`}`
}
