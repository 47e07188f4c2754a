/** From what a client asks for to what is run. */
import { BerthError } from '../../errors.ts'
import type { OutputSpec } from '../../schemas/output.ts'
import type { Resources, SandboxCreate } from '../../schemas/sandbox.ts'
import type { TaskCreate, TaskRequests } from '../../schemas/task.ts'
import { parseImageReference } from '../images/image-reference.ts'
import { resourceDefaults } from '../sandboxes/sandbox-manager.ts'
import type { Room } from './task-queue.ts'
import type { TaskSpec } from './task-record.ts'
import { activeSpan } from '../tracing/span.ts'

export interface SpecRules {
  /** The most that one task may request on this host. */
  largest: Room
  runtimes: ReadonlySet<string>
  /** Where output goes of tasks that do not say. */
  defaultOutputs: readonly OutputSpec[]
  /** Both throw for what makes no sense, with a BerthError. */
  checkNetwork: (request: TaskCreate['network']) => void
  checkOutputs: (outputs: readonly OutputSpec[]) => void
}

const retryDefaults = Object.freeze({ backoffMs: 1000, maxBackoffMs: 300_000 })

/**
 * Fills in every default, and refuses now what could only fail later.
 *
 * @throws BerthError invalid_argument.
 */
export function toTaskSpec (input: TaskCreate, rules: SpecRules): TaskSpec {
  const { resources, requests, labels, env, pool = 'default', priority = 0, maxAttempts = 1, retry, outputs, delayMs: _, ...rest } = input
  checkNames(input, rules)
  const limits = { ...resourceDefaults, ...resources }
  const traceparent = activeSpan()?.traceparent
  return {
    ...rest,
    env: env ?? {},
    resources: limits,
    requests: toRequests(requests ?? {}, limits, rules.largest),
    labels: labels ?? {},
    pool,
    priority,
    maxAttempts,
    retry: { ...retryDefaults, ...retry },
    outputs: [...outputs ?? rules.defaultOutputs],
    ...(traceparent === undefined ? {} : { traceparent }),
  }
}

/**
 * Refuses what this host would refuse of a client, of a task that somebody else has taken.
 *
 * @throws BerthError invalid_argument.
 */
export function checkTaskSpec (spec: TaskSpec, rules: SpecRules): void {
  checkNames(spec, rules)
  toRequests(spec.requests, spec.resources, rules.largest)
}

function checkNames ({ image, network, outputs, runtime }: Pick<TaskCreate, 'image' | 'network' | 'outputs' | 'runtime'>, rules: SpecRules): void {
  parseImageReference(image)
  rules.checkNetwork(network)
  if (outputs) rules.checkOutputs(outputs)
  if (runtime !== undefined && !rules.runtimes.has(runtime)) {
    throw new BerthError('invalid_argument', 'runtime_unknown', `this host has no OCI runtime ${JSON.stringify(runtime)}; it has ${[...rules.runtimes].join(', ')}`)
  }
}

function toRequests (asked: Partial<TaskRequests>, limits: Resources, largest: Room): TaskRequests {
  const requests = { cpuMillis: limits.cpuMillis, memoryBytes: limits.memoryBytes, ...asked }
  for (const name of ['cpuMillis', 'memoryBytes'] as const) {
    if (requests[name] > limits[name]) {
      throw new BerthError('invalid_argument', 'requests_above_limits', `requests.${name} is ${requests[name]}, above the limit resources.${name} of ${limits[name]}; request at most that`)
    }
    // A limit on processors may well be above what there is; what is kept for a task may not.
    if (name === 'cpuMillis' && asked.cpuMillis === undefined) requests.cpuMillis = Math.min(requests.cpuMillis, largest.cpuMillis)
    if (requests[name] > largest[name]) {
      throw new BerthError('invalid_argument', 'exceeds_host', `the task needs ${name} of ${requests[name]}, and this host has ${largest[name]} for one; ask for less (resources.${name}, or requests.${name})`)
    }
  }
  return requests
}

export function toSandboxCreate (spec: TaskSpec): SandboxCreate {
  const { image, entrypoint, env, workingDir, user, resources, labels, timeoutMs, idleTimeoutMs, runtime, hostname, network, imagePull } = spec
  const optional = { entrypoint, workingDir, user, timeoutMs, idleTimeoutMs, runtime, hostname, network, imagePull }
  return { image, env, resources, labels, ...definedOf(optional) }
}

/** The fields that have a value. */
export function definedOf<T extends object> (fields: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as ReturnType<typeof definedOf<T>>
}
