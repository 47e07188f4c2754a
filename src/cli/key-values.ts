import { readFileSync } from 'node:fs'
import { BerthError } from '../errors.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** For commander: gathers an option that may be given several times. */
export function gather (value: string, before: string[] | undefined): string[] {
  return [...(before ?? []), value]
}

/** Variables of `--env-file` and `-e`, the latter winning; a bare name takes its value from our own environment. */
export function readEnv (assignments: string[] = [], files: string[] = [], own: Environment): Record<string, string> | undefined {
  const env: Record<string, string> = {}
  for (const line of files.flatMap(readEnvFile)) addVariable(env, line, own)
  for (const assignment of assignments) addVariable(env, assignment, own)
  return Object.keys(env).length === 0 ? undefined : env
}

/** Labels of `-l key=value`; a bare key has the empty value. */
export function readLabels (assignments: string[] = []): Record<string, string> | undefined {
  const labels: Record<string, string> = {}
  for (const assignment of assignments) {
    const [key, value] = split(assignment)
    if (key === '') throw new BerthError('invalid_argument', 'usage', `-l: '${assignment}' has no key; write it like team=blue`)
    labels[key] = value ?? ''
  }
  return assignments.length === 0 ? undefined : labels
}

function addVariable (env: Record<string, string>, assignment: string, own: Environment): void {
  const [name, value] = split(assignment)
  if (name === '') throw new BerthError('invalid_argument', 'usage', `-e: '${assignment}' has no name; write it like NAME=value`)
  const inherited = value ?? own[name]
  if (inherited !== undefined) env[name] = inherited
}

function readEnvFile (path: string): string[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new BerthError('invalid_argument', 'usage', `--env-file: cannot read ${path} (${(cause as NodeJS.ErrnoException).code})`, { cause })
  }
  return text.split(/\r?\n/).map(line => line.trimStart()).filter(line => line !== '' && !line.startsWith('#'))
}

function split (assignment: string): [key: string, value: string | undefined] {
  const at = assignment.indexOf('=')
  return at === -1 ? [assignment, undefined] : [assignment.slice(0, at), assignment.slice(at + 1)]
}
