import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { OutputSpec } from '../schemas/output.ts'
import type { TaskCreate } from '../schemas/task.ts'
import { gather } from './key-values.ts'
import { addSandboxOptions, definedOnly, maybe, toSandboxCreate, type SandboxFlags } from './sandbox-options.ts'
import { parseCount, parseCpus, parseDuration, parseSize } from './units.ts'

/** What `berth task run` takes to describe a task, as typed. */
export interface TaskFlags extends SandboxFlags {
  priority?: string
  delay?: string
  attempts?: string
  retryDelay?: string
  pool?: string
  output?: string[]
  webhookSecretFile?: string
  requestsMemory?: string
  requestsCpus?: string
}

type Environment = Readonly<Record<string, string | undefined>>

export function addTaskOptions (command: Command): Command {
  return addSandboxOptions(command)
    .option('--priority <N>', 'from -100 to 100; higher ones go first (0)')
    .option('--delay <DURATION>', 'not before this long from now, like 10m')
    .option('--attempts <N>', 'run it up to so many times until it ends with 0 (1)')
    .option('--retry-delay <DURATION>', 'pause before the second attempt, doubled for each further one (1s)')
    .option('--pool <NAME>', 'which hosts may take it (default)')
    .option('--output <WHERE>', 'send its output there too: console, file, file:NAME, s2 or webhook:URL; may be repeated', gather)
    .option('--webhook-secret-file <FILE>', 'what signs the posts of webhook outputs')
    .option('--requests-memory <SIZE>', 'memory that is kept for it; all of -m when absent')
    .option('--requests-cpus <N>', 'cores that are kept for it; all of --cpus when absent')
}

/** The request that the flags stand for; what is absent is left to the daemon. */
export function toTaskCreate (image: string, argv: string[], flags: TaskFlags, own: Environment): TaskCreate {
  const requests = definedOnly({
    cpuMillis: maybe(flags.requestsCpus, text => parseCpus(text, '--requests-cpus')),
    memoryBytes: maybe(flags.requestsMemory, text => parseSize(text, '--requests-memory')),
  })
  return definedOnly({
    ...toSandboxCreate(image, argv, flags, own),
    requests: Object.keys(requests).length > 0 ? requests : undefined,
    priority: maybe(flags.priority, parsePriority),
    delayMs: maybe(flags.delay, text => parseDuration(text, '--delay')),
    maxAttempts: maybe(flags.attempts, text => parseCount(text, '--attempts')),
    retry: maybe(flags.retryDelay, text => ({ backoffMs: parseDuration(text, '--retry-delay') })),
    pool: flags.pool,
    outputs: toOutputs(flags),
  })
}

function parsePriority (text: string): number {
  if (!/^-?\d{1,3}$/.test(text)) throw usage(`--priority: '${text}' is not a whole number from -100 to 100`)
  return Number(text)
}

function toOutputs ({ output, webhookSecretFile }: TaskFlags): OutputSpec[] | undefined {
  const outputs = output?.map(parseOutput)
  if (webhookSecretFile === undefined) return outputs
  if (!outputs?.some(({ type }) => type === 'webhook')) throw usage('--webhook-secret-file: signs what is posted; say where to, with --output webhook:URL')
  const secret = readSecret(webhookSecretFile)
  return outputs.map(one => one.type === 'webhook' ? { ...one, secret } : one)
}

/** `console`, `file[:NAME]`, `s2`, `webhook:URL`; a file whose name ends with .ndjson has an entry per line. */
function parseOutput (text: string): OutputSpec {
  const [, type, rest] = /^([^:]*)(?::(.*))?$/s.exec(text) ?? []
  if ((type === 'console' || type === 's2') && rest === undefined) return { type }
  if (type === 'file' && rest !== '') return definedOnly({ type, name: rest, format: rest?.endsWith('.ndjson') ? 'ndjson' as const : undefined })
  if (type === 'webhook' && rest) return { type, url: rest }
  throw usage(`--output: '${text}' is no place for output; write console, file, file:NAME, s2 or webhook:https://…`)
}

function readSecret (path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (cause) {
    throw new BerthError('invalid_argument', 'usage', `--webhook-secret-file: cannot read ${path} (${(cause as NodeJS.ErrnoException).code})`, { cause })
  }
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
