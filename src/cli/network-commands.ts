import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { DecisionGap, ListeningPorts, Network, NetworkDecision, NetworkStatus } from '../schemas/network.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { addNetworkOptions, toNetworkRequest, type NetworkFlags } from './network-options.ts'
import { decisionHeading, formatDecision, formatNetwork, formatPorts } from './network-text.ts'
import { resolveSandboxId } from './target-finder.ts'
import { followRecords, pastRecords } from './seq-follower.ts'
import type { Shell } from './shell.ts'
import { parseCount } from './units.ts'

interface JsonFlag {
  json?: boolean
}

interface DecisionFlags extends JsonFlag {
  follow?: boolean
  denied?: boolean
  since?: string
}

const idHelp = 'id or the unique beginning of one'

export function addNetworkCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  const network = program.command('network').summary('show what a sandbox may reach and what reaches it, or change it')
    .description('Shows what a sandbox may reach, what reaches it and how much has passed.')
    .argument('<ID>', idHelp)
    .option('--json', 'print JSON')
    .action((id: string, flags: JsonFlag) => act(show(shell, id, flags)))
  addNetworkOptions(network.command('set').summary('replace what a sandbox may reach and publishes')
    .description('Replaces what a sandbox may reach and publishes, at once. The options are the whole wish: what they leave out falls back to its default.')
    .argument('<ID>', idHelp))
    .option('--json', 'print JSON')
    .action((id: string, flags: NetworkFlags & JsonFlag) => act(replace(shell, id, flags)))
  network.command('decisions').summary('show what was allowed and denied')
    .description('Shows which names were asked for, which connections went through the proxy, and what was denied; with -f what comes from this moment on.')
    .argument('<ID>', idHelp)
    .option('-f, --follow', 'what comes from this moment on')
    .option('--denied', 'only what was denied')
    .option('--since <SEQ>', 'read on behind this decision')
    .option('--json', 'print the decisions, one JSON object a line')
    .action((id: string, flags: DecisionFlags) => act(showDecisions(shell, id, flags)))
  program.command('ports').summary('list the ports that programs inside listen on').description('Lists the TCP ports that programs inside a sandbox listen on, and where they are reached.')
    .argument('<ID>', idHelp)
    .option('--json', 'print a JSON array')
    .action((id: string, flags: JsonFlag) => act(showPorts(shell, id, flags)))
}

async function show (shell: Shell, given: string, flags: JsonFlag): Promise<number> {
  const id = await resolveSandboxId(shell.client(), given)
  return print(shell, await shell.client().request<NetworkStatus>('GET', `/v1/sandboxes/${id}/network`), flags)
}

async function replace (shell: Shell, given: string, flags: NetworkFlags & JsonFlag): Promise<number> {
  const body = toNetworkRequest(flags)
  // An empty wish would close what someone opened, without a word of theirs.
  if (!body) throw new BerthError('invalid_argument', 'usage', 'network set: say what it shall be, like --egress none or --allow api.example.com; what is left out falls back to its default')
  const id = await resolveSandboxId(shell.client(), given)
  return print(shell, await shell.client().request<Network>('PUT', `/v1/sandboxes/${id}/network`, { body }), flags)
}

async function print (shell: Shell, network: NetworkStatus, flags: JsonFlag): Promise<number> {
  await (flags.json ? shell.output.json(network) : shell.output.out(formatNetwork(network)))
  return 0
}

async function showDecisions (shell: Shell, given: string, flags: DecisionFlags): Promise<number> {
  if (flags.since !== undefined) parseCount(flags.since, '--since')
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const client = shell.client()
  const id = await resolveSandboxId(client, given)
  const query = flags.denied ? { action: 'denied' } : {}
  const read = flags.follow ? followRecords : pastRecords
  if (!flags.json) await shell.output.line(decisionHeading)
  for await (const one of read<NetworkDecision | DecisionGap>(client, { path: `/v1/sandboxes/${id}/network/decisions`, query, since: flags.since, signal: left.signal })) {
    if (flags.json) await shell.output.line(JSON.stringify(one))
    else await ('type' in one ? shell.output.note(one.message) : shell.output.line(formatDecision(one)))
  }
  return 0
}

async function showPorts (shell: Shell, given: string, flags: JsonFlag): Promise<number> {
  const id = await resolveSandboxId(shell.client(), given)
  const { items } = await shell.client().request<ListeningPorts>('GET', `/v1/sandboxes/${id}/ports`)
  await (flags.json ? shell.output.json(items) : shell.output.out(formatPorts(items)))
  return 0
}
