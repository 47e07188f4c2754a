/** What the forms for sandboxes and for tasks have in common: the fields, and the request that they stand for. */
import { signal, type Signal } from '@preact/signals'
import type { SandboxCreate } from '../../schemas/sandbox.ts'
import { parseCommandLine } from '../text/command-line.ts'
import { parseBytes, parseCores, parseDuration, parseList, parsePairs } from '../text/form-values.ts'

export interface RunForm {
  image: Signal<string>
  command: Signal<string>
  env: Signal<string>
  labels: Signal<string>
  cpu: Signal<string>
  memory: Signal<string>
  disk: Signal<string>
  timeout: Signal<string>
  /** default, none, internet or rules. */
  egress: Signal<string>
  allow: Signal<string>
}

export function makeRunForm (): RunForm {
  return {
    image: signal('berth/base'),
    command: signal(''),
    env: signal(''),
    labels: signal(''),
    cpu: signal(''),
    memory: signal(''),
    disk: signal(''),
    timeout: signal(''),
    egress: signal('default'),
    allow: signal(''),
  }
}

export type RunRequest = Pick<SandboxCreate, 'image' | 'entrypoint' | 'env' | 'labels' | 'resources' | 'timeoutMs' | 'network'>

/** What is left empty is left to the host. @throws Error that says which field to mend, and how. */
export function readRunForm (form: RunForm): RunRequest {
  const image = form.image.value.trim()
  if (image === '') throw new Error('Image: a name is needed, such as berth/base or python:3.12')
  const entrypoint = named('Command', () => parseCommandLine(form.command.value))
  const resources = {
    ...given('cpuMillis', named('CPU', () => parseCores(form.cpu.value))),
    ...given('memoryBytes', named('Memory', () => parseBytes(form.memory.value))),
    ...given('diskBytes', named('Disk', () => parseBytes(form.disk.value))),
  }
  return {
    image,
    ...(entrypoint.length > 0 && { entrypoint }),
    ...given('env', named('Environment', () => parsePairs(form.env.value))),
    ...given('labels', named('Labels', () => parsePairs(form.labels.value))),
    ...(Object.keys(resources).length > 0 && { resources }),
    ...given('timeoutMs', named('Time limit', () => parseDuration(form.timeout.value))),
    ...given('network', networkOf(form)),
  }
}

function networkOf ({ egress, allow }: RunForm): SandboxCreate['network'] {
  if (egress.value === 'none' || egress.value === 'internet') return { egress: egress.value }
  return egress.value === 'rules' ? { egress: { allow: parseList(allow.value) } } : undefined
}

function given<K extends string, V> (name: K, value: V | undefined): { [name in K]?: V } {
  return value === undefined ? {} : { [name]: value } as { [name in K]: V }
}

function named<T> (field: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new Error(`${field}: ${error instanceof Error ? error.message : String(error)}`)
  }
}
