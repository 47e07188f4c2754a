import type { Command } from 'commander'
import { BerthError } from '../errors.ts'
import { copyIn, copyTarIn } from './copy-in.ts'
import { copyOut, copyTarOut } from './copy-out.ts'
import { parseCopyPlace } from './copy-place.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import { printable } from './printable.ts'
import { Progress } from './progress.ts'
import type { Shell } from './shell.ts'
import { resolveSandboxId } from './target-finder.ts'
import { describeSize } from './units.ts'

interface CopyFlags {
  followLink?: boolean
  quiet?: boolean
  user?: string
  json?: boolean
}

/** What one copy works with. */
export interface Copy {
  shell: Shell
  sandboxId: string
  user: string | undefined
  /** Copy what a symbolic link at the source leads to. */
  followsLink: boolean
  signal: AbortSignal
  /** Told of every piece that has passed. */
  onBytes: (bytes: number) => void
}

/** What came of it. */
export interface Copied {
  to: string
  bytes: number
  /** Devices, FIFOs and the like. */
  leftOut?: number
}

export function addCopyCommand (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  program.command('cp').summary('copy files into a sandbox or out of it')
    .description('Copies a file or a directory into a running sandbox or out of it, as docker cp does. - is a tar, on standard input or output.')
    .argument('<SRC>', 'SANDBOX:PATH, a path here, or -; with /. at its end what is in the directory').argument('<DST>', 'a path here, SANDBOX:PATH, or -')
    .usage('[options] SANDBOX:SRC DST|-\n       berth cp [options] SRC|- SANDBOX:DST')
    .option('-L, --follow-link', 'copy what a symbolic link at SRC leads to')
    .option('-u, --user <USER>', 'as whom inside, as name, uid or uid:gid')
    .option('-q, --quiet', 'tell nothing but errors')
    .option('--json', 'print what was copied, as JSON')
    .action((source: string, target: string, flags: CopyFlags) => act(copy(shell, source, target, flags)))
}

async function copy (shell: Shell, source: string, target: string, flags: CopyFlags): Promise<number> {
  const [from, to] = [parseCopyPlace(source), parseCopyPlace(target)]
  const sandbox = from.sandbox ?? to.sandbox
  if (sandbox === undefined) throw usage('cp: one of the two must be in a sandbox; write it like SANDBOX:/path')
  if (from.sandbox !== undefined && to.sandbox !== undefined) throw usage('cp: only one of the two can be in a sandbox; copy by way of here: berth cp A:/path - | berth cp - B:/path')
  const toOutput = to.sandbox === undefined && to.path === '-'
  if (toOutput && shell.output.isTty.stdout) throw usage('cp: a tar is not for a terminal; send it on, like: berth cp SANDBOX:/path - | tar t')
  if (toOutput && flags.json) throw usage('--json: standard output has the tar; leave out --json')
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const sandboxId = await resolveSandboxId(shell.client(), sandbox)
  let bytes = 0
  const copying: Copy = { shell, sandboxId, user: flags.user, followsLink: flags.followLink ?? false, signal: left.signal, onBytes: more => { bytes += more } }
  const work = () => {
    if (from.sandbox !== undefined) return toOutput ? copyTarOut(copying, from.path) : copyOut(copying, from.path, to.path)
    return from.path === '-' ? copyTarIn(copying, to.path) : copyIn(copying, from.path, to.path)
  }
  // A tar on the terminal's other end has the screen for itself.
  const progress = new Progress(shell.output, flags.quiet ? 'none' : 'auto')
  const copied = await progress.during(() => `copying, ${describeSize(bytes)}`, work).catch(error => { throw left.signal.aborted ? left.signal.reason : explain(error) })
  if (copied.leftOut) await shell.output.note(`left out what is neither a file, a directory nor a link: ${copied.leftOut}`)
  if (flags.json) await shell.output.json({ from: source, ...copied })
  else if (!toOutput) await progress.say(`copied ${describeSize(copied.bytes)} to ${printable(copied.to)}`)
  return 0
}

/** What the file system here said has the path in it, which may come from inside. */
function explain (error: unknown): unknown {
  const { code, syscall, message } = error as NodeJS.ErrnoException
  if (error instanceof BerthError || !code || !syscall) return error
  return new BerthError('invalid_argument', 'copy_failed', printable(message), { cause: error })
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
