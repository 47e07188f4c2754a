/** Everything about the sources that can be checked without running them: one program each. */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'

export const repo = join(import.meta.dirname, '..')

export interface Check {
  name: string
  argv: string[]
}

export interface CheckResult {
  name: string
  ok: boolean
  durationMs: number
  output: string
}

const bin = (path: string): string => join(repo, 'node_modules', path)
const shellScripts = ['bin/berth', 'bin/node24', '.ci/run', ...readdirSync(join(repo, 'scripts')).filter((file) => file.endsWith('.sh')).map((file) => `scripts/${file}`)]

/** Longest first: they run two at a time. */
export const checks: readonly Check[] = [
  { name: 'style and promises (eslint)', argv: [process.execPath, bin('eslint/bin/eslint.js'), '--max-warnings', '0', '.'] },
  { name: 'types of the console (tsc)', argv: [process.execPath, bin('typescript/bin/tsc'), '-p', 'src/ui'] },
  { name: 'types (tsc)', argv: [process.execPath, bin('typescript/bin/tsc'), '-p', '.'] },
  { name: 'OpenAPI rules (redocly)', argv: [process.execPath, bin('@redocly/cli/bin/cli.js'), 'lint', 'openapi/openapi.json', 'openapi/gateway.json'] },
  { name: 'OpenAPI documents are what the routes say', argv: [process.execPath, 'scripts/openapi.ts', '--check'] },
  { name: 'nothing unused (knip)', argv: [process.execPath, bin('knip/bin/knip.js'), '--no-progress', '--no-config-hints'] },
  { name: 'shell scripts parse (bash -n)', argv: ['bash', '-c', 'status=0; for file; do bash -n "$file" || status=1; done; exit $status', 'bash', ...shellScripts] },
]

const checkTimeoutMs = 300_000
const checksAtOnce = 2

// Redocly looks for a newer version of itself and reports its use unless told otherwise.
const quietEnv = { REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true', NO_COLOR: '1', FORCE_COLOR: undefined }

/** Runs one check to its end. A check that cannot be started or takes too long has failed. */
export async function runCheck ({ name, argv: [file, ...args] }: Check): Promise<CheckResult> {
  const startedAt = performance.now()
  const child = spawn(file ?? '', args, {
    cwd: repo,
    env: { ...process.env, ...quietEnv },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: checkTimeoutMs,
    killSignal: 'SIGKILL',
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  const ok = await new Promise<boolean>((resolve) => {
    child.on('error', (error) => { output += error.message; resolve(false) })
    child.on('close', (exitCode, signal) => {
      if (signal !== null) output += `\nended by ${signal} after ${checkTimeoutMs / 1000} s at most\n`
      resolve(exitCode === 0)
    })
  })
  return { name, ok, output, durationMs: performance.now() - startedAt }
}

/** Runs every check, whatever the others answer, and says how each went as soon as it is known. */
export async function runChecks (report: (result: CheckResult) => void): Promise<CheckResult[]> {
  const results: CheckResult[] = []
  const waiting = [...checks]
  const work = async (): Promise<void> => {
    for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) {
      const result = await runCheck(check)
      results.push(result)
      report(result)
    }
  }
  await Promise.all(Array.from({ length: checksAtOnce }, work))
  return results
}
