/** `berth doctor`: what this host has, what it lacks and the command that mends it, and a sandbox as the proof. */
import type { HostCheck, HostCheckResult } from '../services/host/host-checks.ts'

export interface SelfTestResult {
  ok: boolean
  /** What the sandbox showed, or why it did not run. */
  detail: string
  durationMs: number
}

export interface DoctorParts {
  checks: readonly HostCheck[]
  /** Runs a sandbox to its end on the default runtime; absent: only look. */
  selfTest?: () => Promise<SelfTestResult>
  /** One JSON document, in place of the table. */
  json: boolean
  write: (text: string) => void
}

type Finding = Omit<HostCheck, 'probe'> & HostCheckResult

/** Looks at everything, prints it, and answers with the exit code: 0 when sandboxes can run here, else 1. */
export async function runDoctor ({ checks, selfTest, json, write }: DoctorParts): Promise<number> {
  const findings = await Promise.all(checks.map(async ({ name, why, required, fix, probe }): Promise<Finding> =>
    ({ name, why, required, fix, ...await probe() })))
  const isReady = findings.every((finding) => finding.status === 'ok' || !finding.required)
  const proof = isReady && selfTest !== undefined ? await prove(selfTest) : undefined
  const isHealthy = isReady && proof?.ok !== false
  if (json) write(`${JSON.stringify({ ok: isHealthy, checks: findings, selfTest: proof ?? null }, null, 2)}\n`)
  else write(table(findings) + verdict(findings, isReady, proof))
  return isHealthy ? 0 : 1
}

async function prove (selfTest: NonNullable<DoctorParts['selfTest']>): Promise<SelfTestResult> {
  const startedAt = performance.now()
  try {
    return await selfTest()
  } catch (error) {
    return { ok: false, detail: error instanceof Error ? error.message : String(error), durationMs: Math.round(performance.now() - startedAt) }
  }
}

function table (findings: readonly Finding[]): string {
  const nameWidth = Math.max(0, ...findings.map(({ name }) => name.length))
  const versionWidth = Math.max(0, ...findings.map(({ version = '' }) => version.length))
  return findings.map(({ name, why, required, fix, status, version = '', problem = '' }) => {
    const word = status === 'ok' ? 'ok' : (required ? '' : 'optional: ') + status.replace('_', ' ')
    const row = `${word.padEnd(18)}  ${name.padEnd(nameWidth)}  ${version.padEnd(versionWidth)}`
    if (status === 'ok') return `${row}  ${why}\n`
    return `${row}  ${problem}\n${''.padEnd(18)}    ${why}; mend it with: ${fix}\n`
  }).join('')
}

function verdict (findings: readonly Finding[], isReady: boolean, proof: SelfTestResult | undefined): string {
  if (!isReady) {
    const lacking = findings.filter(({ status, required }) => required && status !== 'ok').map(({ name }) => name)
    return `\nSandboxes cannot run here yet: mend ${lacking.join(', ')}, then run this again.\n`
  }
  if (proof === undefined) return '\nEverything a sandbox needs is here; none was started to prove it.\n'
  const line = `\nself-test sandbox (${Math.round(proof.durationMs)} ms): ${proof.detail}\n`
  return proof.ok ? `${line}This host is ready.\n` : `${line}The self-test failed, so sandboxes cannot run here yet.\n`
}
