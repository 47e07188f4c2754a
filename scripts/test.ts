/**
 * `npm test`: every check, then the whole suite, then a look at what it left on the host.
 *   npm test -- [--unit] [--verbose] [--grep RE] [FILE ...]      the last three run tests alone, without the checks
 * The last line is `N passed, N failed`.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmdirSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { repo, runChecks, type CheckResult } from './checks.ts'
import { rememberHost } from './leftovers.ts'
import { printCheck, printFailures, printFile, printSlowest } from './print.ts'
import { findTestFiles, runFiles, type FileResult } from './suite.ts'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { unit: { type: 'boolean' }, verbose: { type: 'boolean' }, grep: { type: 'string' } },
})
const isNarrowed = flags.unit === true || flags.grep !== undefined || positionals.length > 0
const isContinuousIntegration = process.env.CI === 'true'

const named = positionals.map((file) => relative(repo, resolve(file)))
const all = named.length > 0 ? named : [...findTestFiles('test/unit'), ...(flags.unit === true ? [] : [...findTestFiles('test/host'), ...findTestFiles('test/browser')])]
const needsHost = (file: string): boolean => /^test\/(host|browser)\//.test(file)
const hostFiles = all.filter(needsHost)
const unitFiles = all.filter((file) => !needsHost(file))
/** What measures the host, or loads it so that others would not come to their end in time: each has the machine to itself. */
const needsMachine = (file: string): boolean => /\/(limits|hardening|image-pull|image-outage|terminal-torture|fleet-chaos|fleet-simulation)\.test\.ts$/.test(file)
/** Those that take minutes begin first, so that none of them is left for the end. */
const longFirst = (files: string[]): string[] => files.toSorted((a, b) => Number(/loop|matrix|recovery/.test(b)) - Number(/loop|matrix|recovery/.test(a)))

if (hostFiles.length > 0 && process.getuid?.() !== 0) process.exit(runAsRoot())

/** Starts the same run as root and answers with its exit code. */
function runAsRoot (): number {
  const isAllowed = spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0
  if (!isAllowed) {
    console.error('test: the tests in test/host and test/browser run real sandboxes and need root, and sudo does not let this user in without a password;')
    console.error('      run it as root, or run what needs no root: npm run test:unit')
    return 1
  }
  const { status } = spawnSync('sudo', ['-n', '--preserve-env=CI,PATH,NO_COLOR,FORCE_COLOR', process.execPath, ...process.execArgv, ...process.argv.slice(1)], { stdio: 'inherit' })
  return status ?? 1
}

const checkResults: CheckResult[] = isNarrowed ? [] : await runChecks(printCheck)

// One directory for every temporary file of the run: whatever is left in it, or names it, was left by a test.
const tempDir = mkdtempSync('/tmp/berth-test-')
// Some run programs as other users, who get at what they know by name.
chmodSync(tempDir, 0o711)
process.env.TMPDIR = tempDir
const host = rememberHost(tempDir)

const grep = flags.grep === undefined ? undefined : new RegExp(flags.grep)
const report = (result: FileResult): void => printFile(result, flags.verbose === true)
const files = [
  ...await runFiles(unitFiles, { concurrency: 2, grep, report }),
  ...await runFiles(longFirst(hostFiles.filter((file) => !needsMachine(file))), { concurrency: 2, grep, report }),
  ...await runFiles(hostFiles.filter(needsMachine), { concurrency: 1, grep, report }),
]

const leftovers = await host.find()
const cleanliness: CheckResult = { name: 'the host is as clean as before', ok: leftovers.length === 0, durationMs: 0, output: leftovers.join('\n') }
printCheck(cleanliness)
// Not recursively: what a test left there may be a mount.
if (cleanliness.ok) rmdirSync(tempDir)

const tests = files.flatMap((file) => file.tests.map((test) => ({ ...test, file: file.file })))
const skipped = tests.filter(({ outcome }) => outcome === 'skipped')
if (files.length > 0) printSlowest(files)
for (const { file, name, detail } of skipped) console.log(`skipped: ${join(file)}: ${name}${detail === undefined ? '' : ` (${detail})`}`)
if (skipped.length > 0) console.log(`${skipped.length} skipped${isContinuousIntegration ? ', which counts as failed in CI' : ''}`)
if (tests.length === 0) console.log('no test ran, which counts as failed')

const results = [...checkResults, cleanliness]
printFailures([...results.filter(({ ok }) => !ok).map(({ name, output }) => ({ name, detail: output })), ...tests.filter(({ outcome }) => outcome === 'failed')])
const passed = results.filter(({ ok }) => ok).length + tests.filter(({ outcome }) => outcome === 'passed').length
const failed = results.filter(({ ok }) => !ok).length + tests.filter(({ outcome }) => outcome === 'failed').length +
  (isContinuousIntegration ? skipped.length : 0) + (tests.length === 0 ? 1 : 0)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
