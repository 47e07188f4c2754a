import { Option, type Command } from 'commander'
import type { SandboxCreate } from '../schemas/sandbox.ts'
import { gather, readEnv, readLabels } from './key-values.ts'
import { addNetworkOptions, toNetworkRequest, type NetworkFlags } from './network-options.ts'
import type { ProgressMode } from './progress.ts'
import { parseCount, parseCpus, parseDuration, parseSize } from './units.ts'

/** What `berth run` and `berth create` take to describe a sandbox, as typed. */
export interface SandboxFlags extends NetworkFlags {
  image?: string
  pull?: NonNullable<SandboxCreate['imagePull']>
  env?: string[]
  envFile?: string[]
  workdir?: string
  user?: string
  label?: string[]
  cpus?: string
  memory?: string
  pidsLimit?: string
  disk?: string
  timeout?: string
  idleTimeout?: string
  runtime?: string
  hostname?: string
  progress: ProgressMode
  quiet?: boolean
  json?: boolean
}

export function addSandboxOptions (command: Command): Command {
  command
    .option('--image <IMAGE>', 'name the image here; all that follows the flags is the command')
    .addOption(new Option('--pull <WHEN>', 'when to ask the registry; missing: when the image is not here (the default)').choices(['missing', 'always', 'never']))
    .option('-e, --env <NAME=VALUE>', 'set a variable; NAME alone takes its value from here', gather)
    .option('--env-file <FILE>', 'read variables from a file', gather)
    .option('-w, --workdir <DIR>', 'directory to start in')
    .option('-u, --user <USER>', 'user, as name, uid or uid:gid')
    .option('-l, --label <KEY=VALUE>', 'mark the sandbox', gather)
    .option('--cpus <N>', 'cores, like 0.5')
    .option('-m, --memory <SIZE>', 'memory, like 512m')
    .option('--pids-limit <N>', 'processes and threads')
    .option('--disk <SIZE>', 'space for written files, like 1g')
    .option('--timeout <DURATION>', 'stop it this long after its start, like 30s')
    .option('--idle-timeout <DURATION>', 'stop it after this long without an exec, like 5m')
    .option('--runtime <NAME>', 'OCI runtime: runsc or runc')
    .option('--hostname <NAME>', 'host name inside')
  return addNetworkOptions(command)
    .addOption(new Option('--progress <MODE>', 'what is told on standard error').choices(['auto', 'plain', 'none']).default('auto'))
    .option('-q, --quiet', 'tell nothing but the output itself')
    .option('--json', 'print JSON')
}

/** The request that the flags stand for; what is absent is left to the daemon. */
export function toSandboxCreate (image: string, argv: string[], flags: SandboxFlags, own: Readonly<Record<string, string | undefined>>): SandboxCreate {
  const resources = definedOnly({
    cpuMillis: maybe(flags.cpus, text => parseCpus(text, '--cpus')),
    memoryBytes: maybe(flags.memory, text => parseSize(text, '--memory')),
    pids: maybe(flags.pidsLimit, text => parseCount(text, '--pids-limit')),
    diskBytes: maybe(flags.disk, text => parseSize(text, '--disk')),
  })
  return definedOnly({
    image,
    entrypoint: argv.length > 0 ? argv : undefined,
    env: readEnv(flags.env, flags.envFile, own),
    workingDir: flags.workdir,
    user: flags.user,
    resources: Object.keys(resources).length > 0 ? resources : undefined,
    labels: readLabels(flags.label),
    timeoutMs: maybe(flags.timeout, text => parseDuration(text, '--timeout')),
    idleTimeoutMs: maybe(flags.idleTimeout, text => parseDuration(text, '--idle-timeout')),
    runtime: flags.runtime,
    hostname: flags.hostname,
    network: toNetworkRequest(flags),
    imagePull: flags.pull,
  })
}

/**
 * What `IMAGE [COMMAND...]` stands for: with --image every operand belongs to the command.
 *
 * @throws CommanderError when neither names an image.
 */
export function splitOperands (command: Command, operands: string[], flags: SandboxFlags): { image: string, argv: string[] } {
  if (flags.image !== undefined) return { image: flags.image, argv: operands }
  const [image, ...argv] = operands
  return image === undefined ? command.error("error: missing required argument 'IMAGE'", { code: 'commander.missingArgument' }) : { image, argv }
}

export function progressMode (flags: { progress?: ProgressMode, quiet?: boolean }): ProgressMode {
  return flags.quiet ? 'none' : flags.progress ?? 'auto'
}

export function maybe<T> (text: string | undefined, parse: (text: string) => T): T | undefined {
  return text === undefined ? undefined : parse(text)
}

export function definedOnly<T extends object> (value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as T
}
