import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Ticket } from '../schemas/ticket.ts'
import type { MadeSandboxToken, SandboxTokenPage } from '../schemas/token.ts'
import { resolveSandboxId } from './target-finder.ts'
import type { Shell } from './shell.ts'
import { formatTable } from './table.ts'
import { describeSpan, parseDuration } from './units.ts'

interface Flags {
  json?: boolean
}

interface CreateFlags extends Flags {
  name?: string
  expires?: string
}

const defaultUrl = 'http://127.0.0.1:7070'

export function addTokenCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  const token = program.command('token').summary('make, list and revoke tokens of one sandbox').description('Tokens of one sandbox: they may look at it, run execs in it and see its ports, and nothing else.')
  token.command('create').summary('make a token and print it').description('Makes a token and prints it. It is told only here.')
    .argument('<ID>', 'id or the unique beginning of one')
    .option('--name <NAME>', 'to tell it from others')
    .option('--expires <DURATION>', 'how long it is good, like 1h; as long as the sandbox is there when absent')
    .option('--json', 'print JSON')
    .action((id: string, flags: CreateFlags) => act(create(shell, id, flags)))
  token.command('list').alias('ls').summary('list the tokens of a sandbox').description('Lists the tokens of a sandbox, without their secrets.')
    .argument('<ID>', 'id or the unique beginning of one')
    .option('--json', 'print a JSON array')
    .action((id: string, flags: Flags) => act(list(shell, id, flags)))
  token.command('revoke').summary('revoke tokens of a sandbox').description('Revokes tokens: they are invalid at once, and so are the browser sessions that they began.')
    .argument('<ID>', 'id or the unique beginning of one')
    .argument('<TOKEN_ID...>', 'as berth token list shows them')
    .option('--json', 'print one JSON object a line')
    .action((id: string, tokenIds: string[], flags: Flags) => act(revoke(shell, id, tokenIds, flags)))
  program.command('preview').summary('print an address that shows a port in a browser').description('Prints an address that shows a port of a sandbox in a browser. It lets in once, within 30 seconds; the browser stays in for 12 hours.')
    .argument('<ID>', 'id or the unique beginning of one')
    .argument('<PORT>', 'where the program inside listens')
    .option('--json', 'print JSON')
    .action((id: string, port: string, flags: Flags) => act(preview(shell, id, port, flags)))
}

async function create (shell: Shell, given: string, flags: CreateFlags): Promise<number> {
  const id = await resolveSandboxId(shell.client(), given)
  const body = {
    ...(flags.name === undefined ? {} : { name: flags.name }),
    ...(flags.expires === undefined ? {} : { expiresInMs: parseDuration(flags.expires, '--expires') }),
  }
  const made = await shell.client().request<MadeSandboxToken>('POST', `/v1/sandboxes/${id}/tokens`, { body })
  await (flags.json ? shell.output.json(made) : shell.output.line(made.token))
  return 0
}

async function list (shell: Shell, given: string, flags: Flags): Promise<number> {
  const id = await resolveSandboxId(shell.client(), given)
  const { items } = await shell.client().request<SandboxTokenPage>('GET', `/v1/sandboxes/${id}/tokens`)
  if (flags.json) {
    await shell.output.json(items)
    return 0
  }
  const now = Date.now()
  await shell.output.out(formatTable(['ID', 'NAME', 'CREATED', 'EXPIRES'], items.map(({ id, name, createdAt, expiresAt }) => [
    id, name, `${describeSpan(now - Date.parse(createdAt))} ago`, expiresAt === undefined ? 'with the sandbox' : `in ${describeSpan(Date.parse(expiresAt) - now)}`,
  ])))
  return 0
}

async function revoke (shell: Shell, given: string, tokenIds: string[], flags: Flags): Promise<number> {
  const id = await resolveSandboxId(shell.client(), given)
  for (const tokenId of tokenIds) {
    await shell.client().request('DELETE', `/v1/sandboxes/${id}/tokens/${encodeURIComponent(tokenId)}`)
    await shell.output.line(flags.json ? JSON.stringify({ id: tokenId, revoked: true }) : tokenId)
  }
  return 0
}

async function preview (shell: Shell, given: string, portText: string, flags: Flags): Promise<number> {
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : 0
  if (port < 1 || port > 65_535) throw new BerthError('invalid_argument', 'usage', `'${portText}' is not a port; it is a number from 1 to 65535`)
  const sandboxId = await resolveSandboxId(shell.client(), given)
  const { expiresAt, path } = await shell.client().request<Ticket>('POST', '/v1/tickets', { body: { sandboxId, scope: 'preview', port } })
  const base = (shell.context.env.BERTH_URL || defaultUrl).replace(/\/(v1\/?)?$/, '')
  const url = `${base}${path}`
  await (flags.json ? shell.output.json({ url, expiresAt }) : shell.output.line(url))
  return 0
}
