/** `npm run check`: everything quick. Exit code 1 when any of it failed. */
import { runChecks } from './checks.ts'
import { printCheck, printFile } from './print.ts'
import { findTestFiles, runFiles } from './suite.ts'

const startedAt = performance.now()
const checkResults = await runChecks(printCheck)
const unitStartedAt = performance.now()
const failedFiles: Parameters<typeof printFile>[0][] = []
const files = await runFiles(findTestFiles('test/unit'), {
  concurrency: 2,
  timeoutMs: 180_000,
  report: (result) => { if (result.tests.some(({ outcome }) => outcome === 'failed')) failedFiles.push(result) },
})
const testCount = files.flatMap(({ tests }) => tests).length
printCheck({
  name: `architecture and unit tests (${testCount} in ${files.length} files)`,
  ok: failedFiles.length === 0 && testCount > 0,
  output: testCount === 0 ? 'no test ran' : '',
  durationMs: performance.now() - unitStartedAt,
})
for (const file of failedFiles) printFile(file, false)

const failedCount = checkResults.filter(({ ok }) => !ok).length + (failedFiles.length > 0 || testCount === 0 ? 1 : 0)
const total = checkResults.length + 1
console.log(`${total - failedCount} of ${total} checks passed in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
process.exitCode = failedCount === 0 ? 0 : 1
