/** A task as an airstore gateway pushes it, and what becomes of it in the queue of a fleet. */
import type { Resources } from '../../schemas/sandbox.ts'
import { maxTimeoutMs } from '../../schemas/sandbox.ts'
import { parseImageReference } from '../images/image-reference.ts'
import type { NewTask, TaskSpec } from '../tasks/task-record.ts'
import { definedOf } from '../tasks/task-spec.ts'
import { taskIdOf } from './wire-keys.ts'

/** An entry that can never be run. Without an `externalId` there is nobody who could be told. */
export class WireRefusal {
  readonly message: string
  readonly externalId: string | undefined
  constructor (message: string, externalId?: string) {
    this.message = message
    this.externalId = externalId
  }
}

export interface WireDefaults {
  /** Of tasks that name none. */
  image?: string
  resources?: Partial<Resources>
  timeoutMs?: number
}

export interface WireTaskOptions {
  pool: string
  defaults?: WireDefaults
}

const GiB = 1024 ** 3
const MiB = 1024 ** 2
const resourceDefaults = { cpuMillis: 2000, memoryBytes: 2 * GiB, pids: 512 }
const limits = { cpuMillis: { least: 10, most: 32_000 }, memoryBytes: { least: 64 * MiB, most: 128 * GiB }, attempts: 100 }
const retry = { backoffMs: 1000, maxBackoffMs: 300_000 }

/** Bytes of an entry, of a text in it, and of all variables or arguments: those of src/schemas/sandbox.ts. */
const sizes = { entry: 4 * MiB, text: 128 * 1024, all: MiB, arguments: 4096, variables: 512 }
const externalIds = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
const variableName = /^[A-Za-z_][A-Za-z0-9_.-]{0,254}$/

/** Runs an agent of Claude Code without a person: every line of its output is JSON. */
function promptEntrypoint (prompt: string): string[] {
  return ['claude', '--print', '--verbose', '--output-format', 'stream-json', '--dangerously-skip-permissions', '-p', prompt]
}

/** Fields that nobody knows are fine, nonsense in those that count is not. */
export function toNewTask (raw: string, options: WireTaskOptions): NewTask | WireRefusal {
  if (Buffer.byteLength(raw) > sizes.entry) return new WireRefusal(`the entry has more than ${sizes.entry} bytes`)
  let fields: unknown
  try {
    fields = JSON.parse(raw)
  } catch {
    return new WireRefusal('the entry is no JSON')
  }
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return new WireRefusal('the entry is no JSON object')
  const found = fields as Record<string, unknown>
  const externalId = found['external_id']
  if (typeof externalId !== 'string' || !externalIds.test(externalId)) return new WireRefusal('external_id must be the id of the task: letters, digits and . _ -')
  try {
    const spec = toSpec(found, externalId, options)
    return { id: taskIdOf(externalId), spec, delayMs: 0, idempotencyKey: `wire:${externalId}` }
  } catch (error) {
    return new WireRefusal(error instanceof Error ? error.message : String(error), externalId)
  }
}

/** @throws Error with what makes no sense. */
function toSpec (fields: Record<string, unknown>, externalId: string, { pool, defaults = {} }: WireTaskOptions): TaskSpec {
  const image = readText(fields, 'image') ?? defaults.image
  if (image === undefined) throw new Error('image is missing; name the image to run')
  parseImageReference(image)
  const resources = readResources(fields['resources'], defaults.resources)
  const attempt = readWhole(fields, 'attempt', Number.MAX_SAFE_INTEGER) ?? 1
  const maxAttempts = readWhole(fields, 'max_attempts', Number.MAX_SAFE_INTEGER) ?? 1
  const timeoutMs = readWhole(fields, 'timeout_ms', maxTimeoutMs) ?? defaults.timeoutMs
  return {
    image,
    entrypoint: readEntrypoint(fields),
    env: readEnv(fields),
    resources,
    requests: { cpuMillis: resources.cpuMillis, memoryBytes: resources.memoryBytes },
    labels: readLabels(fields),
    pool,
    priority: 0,
    maxAttempts: Math.min(Math.max(1, maxAttempts - attempt + 1), limits.attempts),
    retry,
    outputs: [],
    ...definedOf({ timeoutMs }),
    ...readFlag(fields, 'network_enabled') && { network: { egress: 'internet' as const } },
    fleet: { taskId: taskIdOf(externalId), fence: 0, attempt, externalId },
  }
}

function readEntrypoint (fields: Record<string, unknown>): string[] {
  const type = readText(fields, 'type') ?? 'background'
  if (type !== 'background' && type !== 'interactive') throw new Error(`type is ${JSON.stringify(type.slice(0, 64))}; it must be background or interactive`)
  const entrypoint = fields['entrypoint'] ?? []
  if (!Array.isArray(entrypoint) || !entrypoint.every(part => typeof part === 'string')) throw new Error('entrypoint must be a list of strings')
  const prompt = readText(fields, 'prompt')
  if (entrypoint.length === 0 && type === 'interactive') throw new Error('an interactive task needs an entrypoint; open a sandbox and a terminal in it for anything else')
  if (entrypoint.length === 0 && prompt === undefined) throw new Error('there is neither an entrypoint nor a prompt; give what is to be run')
  const argv = entrypoint.length > 0 ? entrypoint as string[] : promptEntrypoint(prompt!)
  if (argv.length > sizes.arguments) throw new Error(`entrypoint has more than ${sizes.arguments} arguments`)
  checkTexts('entrypoint', argv)
  return argv
}

function readEnv (fields: Record<string, unknown>): Record<string, string> {
  const found = fields['env'] ?? {}
  if (typeof found !== 'object' || found === null || Array.isArray(found)) throw new Error('env must be an object of strings')
  const token = readText(fields, 'member_token')
  const env = { ...found as Record<string, unknown>, ...token === undefined ? {} : { AIRSTORE_MEMBER_TOKEN: token } }
  const entries = Object.entries(env)
  if (entries.length > sizes.variables) throw new Error(`env has more than ${sizes.variables} variables`)
  for (const [name, value] of entries) {
    if (!variableName.test(name)) throw new Error(`env has ${JSON.stringify(name.slice(0, 64))}, which is no name of a variable`)
    if (typeof value !== 'string') throw new Error(`env.${name} must be a string`)
  }
  checkTexts('env', entries.flat() as string[])
  return env as Record<string, string>
}

function checkTexts (what: string, texts: readonly string[]): void {
  let bytes = 0
  for (const text of texts) {
    if (text.includes('\0')) throw new Error(`${what} must not contain NUL characters`)
    if (!text.isWellFormed()) throw new Error(`${what} holds half of a surrogate pair`)
    const size = Buffer.byteLength(text)
    if (size > sizes.text) throw new Error(`${what} has a text of more than ${sizes.text} bytes`)
    bytes += size
  }
  if (bytes > sizes.all) throw new Error(`${what} has more than ${sizes.all} bytes altogether`)
}

function readResources (found: unknown, defaults: Partial<Resources> = {}): Resources {
  if (found !== undefined && found !== null && (typeof found !== 'object' || Array.isArray(found))) throw new Error('resources must be an object of cpu, memory and gpu')
  const fields = (found ?? {}) as Record<string, unknown>
  const gpu = readWhole(fields, 'gpu', Number.MAX_SAFE_INTEGER) ?? 0
  if (gpu > 0) throw new Error('the task wants GPUs, which no host of this fleet hands out; ask for gpu 0')
  const base = { ...resourceDefaults, ...defaults }
  return {
    ...base,
    cpuMillis: Math.max(limits.cpuMillis.least, readWhole(fields, 'cpu', limits.cpuMillis.most) ?? base.cpuMillis),
    memoryBytes: Math.max(limits.memoryBytes.least, readWhole(fields, 'memory', limits.memoryBytes.most) ?? base.memoryBytes),
  }
}

/** Who the task is for, so that tasks can be found by it. Scripts read them as JSON, and fail on half of a surrogate pair. */
function readLabels (fields: Record<string, unknown>): Record<string, string> {
  const labels = { workspaceId: fields['workspace_id'], memberId: fields['created_by_member_id'], hookId: fields['hook_id'] }
  return Object.fromEntries(Object.entries(labels)
    .filter(([, value]) => (typeof value === 'string' && value !== '') || typeof value === 'number')
    .map(([name, value]) => [name, String(value).slice(0, 256).toWellFormed()]))
}

/** undefined for what is absent or empty. */
function readText (fields: Record<string, unknown>, name: string): string | undefined {
  const value = fields[name] ?? ''
  if (typeof value !== 'string') throw new Error(`${name} must be a string`)
  return value === '' ? undefined : value
}

/** undefined for what is absent or 0. */
function readWhole (fields: Record<string, unknown>, name: string, most: number): number | undefined {
  const value = fields[name] ?? 0
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new Error(`${name} must be a whole number`)
  if (value > most) throw new Error(`${name} is ${value}; ${most} is the most`)
  return value === 0 ? undefined : value
}

function readFlag (fields: Record<string, unknown>, name: string): boolean {
  const value = fields[name] ?? false
  if (typeof value !== 'boolean') throw new Error(`${name} must be true or false`)
  return value
}
