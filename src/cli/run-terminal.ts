import { BerthError } from '../errors.ts'
import type { ImageDetail } from '../schemas/image.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { isKind } from './client.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { describePublished } from './network-text.ts'
import { Progress } from './progress.ts'
import { pullBeforehand } from './pull-watch.ts'
import { definedOnly, progressMode, toSandboxCreate, type SandboxFlags } from './sandbox-options.ts'
import { describeTimings } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { checkTerminal, parseAttachFlags, runAtTerminal, type AttachFlags } from './terminal-start.ts'

export interface RunTerminalFlags extends SandboxFlags, AttachFlags {
  rm?: boolean
  detach?: boolean
  interactive?: boolean
}

// The program of the sandbox's init that does nothing: what runs at the terminal is not its main process.
const idleCommand = ['/.berth/idle', '-P']

/**
 * `berth run -t`: a sandbox that idles, and the command at a terminal in it; without a command the image's own, else the user's shell.
 *
 * @throws BerthError invalid_argument `usage`.
 */
export async function runAtNewTerminal (shell: Shell, image: string, argv: string[], flags: RunTerminalFlags): Promise<number> {
  if (flags.detach) throw new BerthError('invalid_argument', 'usage', '-t: a task has no terminal; leave out -d or -t')
  if (flags.json) throw new BerthError('invalid_argument', 'usage', '--json: what a terminal shows is no JSON; leave out --json or -t')
  checkTerminal(shell)
  const how = parseAttachFlags(flags)
  const client = shell.client()
  const sandbox = await create(shell, image, flags)
  const remove = async () => {
    await client.request('DELETE', `/v1/sandboxes/${sandbox.id}`, { query: { force: true } }).catch(error => { if (!isKind(error, 'not_found')) throw error })
  }
  let isDetached = false
  try {
    const wanted = argv.length > 0 ? argv : await imageCommand(shell, sandbox)
    const run = await runAtTerminal(shell, { sandboxId: sandbox.id, input: definedOnly({ argv: wanted }), takesInput: flags.interactive ?? false, ...how })
    isDetached = run.isDetached
    return run.exitCode
  } catch (error) {
    // The program goes on without us: a signal, or a connection that is lost.
    isDetached = error instanceof InterruptedError || (error instanceof BerthError && error.code === 'attach_connection_lost')
    throw error
  } finally {
    if (isDetached && flags.rm) await shell.output.note(`${sandbox.id} is left as it is; delete it with: berth rm -f ${sandbox.id}`).catch(() => {})
    else if (flags.rm) await remove()
  }
}

async function create (shell: Shell, image: string, flags: RunTerminalFlags): Promise<Sandbox> {
  const body = toSandboxCreate(image, idleCommand, flags, shell.context.env)
  const mode = progressMode(flags)
  const progress = new Progress(shell.output, mode)
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  await pullBeforehand(shell, image, flags, { mode, signal: left.signal })
  const sandbox = await progress.during(`creating a sandbox of ${image}`, () => shell.client().request<Sandbox>('POST', '/v1/sandboxes', { body, signal: left.signal }))
  await progress.say(`${sandbox.id} started in ${describeTimings(sandbox)}`)
  for (const published of sandbox.network.publish) await progress.say(`published: ${describePublished(published)}`)
  return sandbox
}

/** What the image would run; undefined where it names nothing, or is none that is kept. */
async function imageCommand ({ client }: Shell, { image }: Sandbox): Promise<string[] | undefined> {
  if (image.digest === undefined) return undefined
  try {
    const { config } = await client().request<ImageDetail>('GET', `/v1/images/${image.digest}`)
    const command = [...(config.entrypoint ?? []), ...(config.cmd ?? [])]
    return command.length > 0 ? command : undefined
  } catch (error) {
    if (isKind(error, 'not_found')) return undefined
    throw error
  }
}
