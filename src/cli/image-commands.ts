import { createInterface } from 'node:readline'
import { Option, type Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Image, ImagePull, ImageRemoval, PruneResult, RegistryCredentials } from '../schemas/image.ts'
import { isKind } from './client.ts'
import { familiarName, listImages, resolveImageDigest } from './image-finder.ts'
import { InterruptedError, watchInterrupts } from './interrupts.ts'
import type { ProgressMode } from './progress.ts'
import { shortDigest } from './pull-display.ts'
import { localShare, watchPull } from './pull-watch.ts'
import { progressMode } from './sandbox-options.ts'
import { forEachId, type Shell } from './shell.ts'
import { formatTable, shorten } from './table.ts'
import { describeSize, describeSpan, parseDuration, parseSize } from './units.ts'

interface PullFlags {
  eager?: boolean
  username?: string
  passwordStdin?: boolean
  progress?: ProgressMode
  quiet?: boolean
  json?: boolean
}

interface ListFlags {
  digests?: boolean
  quiet?: boolean
  json?: boolean
}

interface PruneFlags {
  keep?: string
  unusedFor?: string
  yes?: boolean
  force?: boolean
  json?: boolean
}

const maxPasswordBytes = 8192
const referenceWidth = 64
const shownSandboxes = 3

export function addImageCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  program.command('pull').summary('bring an image onto the host')
    .description('Brings an image onto the host and prints its digest. What a tag stands for is asked anew; what is here already is not fetched again. The image can be used before all of it has been fetched.')
    .argument('<IMAGE>', 'like python:3.12, ghcr.io/acme/agent@sha256:… or registry:5000/team/img:tag')
    .option('--eager', 'fetch all of it before it counts as pulled')
    .option('-u, --username <NAME>', 'for the registry, this time; goes with --password-stdin')
    .option('--password-stdin', 'read the password from standard input')
    .addOption(new Option('--progress <MODE>', 'what is told on standard error').choices(['auto', 'plain', 'none']).default('auto'))
    .option('-q, --quiet', 'print the digest and nothing else')
    .option('--json', 'print the image as JSON')
    .action((reference: string, flags: PullFlags) => act(pull(shell, reference, flags)))
  program.command('images').summary('list the images on the host').description('Lists the images on the host, the newest first.')
    .option('--digests', 'whole digests')
    .option('-q, --quiet', 'digests only')
    .option('--json', 'print a JSON array')
    .action((flags: ListFlags) => act(list(shell, flags)))
  program.command('rmi').summary('delete images').description('Deletes images that no sandbox uses. An image goes with all its names; layers that other images share stay.')
    .argument('<IMAGE...>', 'reference, digest or the unique beginning of one')
    .option('--json', 'print one JSON object a line')
    .action((images: string[], flags: { json?: boolean }) => act(removeEach(shell, images, flags)))
  program.command('prune').summary('delete images that no sandbox uses').description('Deletes images that no sandbox uses, the longest unused first, and prints their digests.')
    .option('--keep <SIZE>', 'stop when images take at most this much, like 10g')
    .option('--unused-for <DURATION>', 'only those not used for this long, like 7d')
    .option('-y, --yes', 'do not ask').option('-f, --force', 'the same')
    .option('--json', 'print JSON')
    .action((flags: PruneFlags) => act(prune(shell, flags)))
}

async function pull (shell: Shell, reference: string, flags: PullFlags): Promise<number> {
  const credentials = await readCredentials(shell, flags)
  const body: ImagePull = { reference, mode: flags.eager ? 'eager' : 'lazy', ...(credentials && { credentials }) }
  const left = new AbortController()
  using cleanup = new DisposableStack()
  cleanup.use(watchInterrupts(shell.context, (_count, signal) => left.abort(new InterruptedError(signal))))
  const image = await watchPull(shell, body, { mode: progressMode(flags), signal: left.signal }).catch(error => { throw credentials ? error : withLoginHint(error) })
  await (flags.json ? shell.output.json(image) : shell.output.line(image.digest))
  return 0
}

/** Never from the command line itself: other users of a machine can read it. */
async function readCredentials (shell: Shell, flags: PullFlags): Promise<RegistryCredentials | undefined> {
  const { username, passwordStdin } = flags
  if (username === undefined && !passwordStdin) return undefined
  if (username === undefined) throw usage('--password-stdin: goes with --username NAME')
  if (!passwordStdin) throw usage('--username: goes with --password-stdin, which reads the password from standard input')
  if (shell.context.isTty.stdin) throw usage('--password-stdin: a terminal would show the password; pass it like: berth pull … --password-stdin < FILE')
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of shell.context.stdin) {
    chunks.push(Buffer.from(chunk as Buffer))
    bytes += chunks.at(-1)!.length
    if (bytes > maxPasswordBytes) throw usage(`--password-stdin: standard input has more than ${maxPasswordBytes} bytes; that is no password`)
  }
  const password = Buffer.concat(chunks).toString('utf8').replace(/\r?\n$/, '')
  if (password === '') throw usage('--password-stdin: standard input is empty')
  return { username, password }
}

function withLoginHint (error: unknown): unknown {
  if (!(error instanceof BerthError) || error.code !== 'image_auth_required') return error
  return new BerthError(error.kind, error.code, `${error.message}\nTo give them for this once: berth pull --username NAME --password-stdin IMAGE < FILE`, { cause: error })
}

async function list (shell: Shell, flags: ListFlags): Promise<number> {
  const images: Image[] = []
  for await (const image of listImages(shell.client())) images.push(image)
  if (flags.json) await shell.output.json(images)
  else if (flags.quiet) for (const { digest } of images) await shell.output.line(digest)
  else await shell.output.out(formatImages(images, flags.digests ?? false))
  return 0
}

function formatImages (images: Image[], hasWholeDigests: boolean): string {
  const now = Date.now()
  const ago = (at: string) => `${describeSpan(now - Date.parse(at))} ago`
  return formatTable(['REFERENCE', 'DIGEST', 'SIZE', 'LOCAL', 'CREATED', 'USED', 'SANDBOXES'], images.flatMap(image => {
    const digest = hasWholeDigests ? image.digest : shortDigest(image.digest)
    const facts = [digest, describeSize(image.sizeBytes), localShare(image), ago(image.createdAt), ago(image.lastUsedAt), String(image.leases)]
    const references = image.references.length > 0 ? image.references : ['-']
    return references.map(reference => [shorten(familiarName(reference), hasWholeDigests ? Infinity : referenceWidth), ...facts])
  }))
}

/** Prints each image as it was given, as docker does with sandboxes. */
async function removeEach (shell: Shell, images: string[], flags: { json?: boolean }): Promise<number> {
  return forEachId(shell, images, async given => {
    const digest = await resolveImageDigest(shell.client(), given)
    const removal = await shell.client().request<ImageRemoval | undefined>('DELETE', `/v1/images/${digest}`).catch(error => { throw withUseHint(error, given) })
    await shell.output.line(flags.json ? JSON.stringify({ digest, removed: true, ...removal }) : given)
  })
}

function withUseHint (error: unknown, given: string): unknown {
  const leases = isKind(error, 'conflict') ? (error as BerthError).details?.leases : undefined
  if (!Array.isArray(leases) || leases.length === 0) return error
  const more = leases.length > shownSandboxes ? ` and ${leases.length - shownSandboxes} more` : ''
  return new BerthError('conflict', 'image_in_use', `${given} is used by ${leases.slice(0, shownSandboxes).join(', ')}${more}; delete them first with: berth rm -f ID`, { cause: error })
}

async function prune (shell: Shell, flags: PruneFlags): Promise<number> {
  const body = {
    ...(flags.keep !== undefined && { keepBytes: parseSize(flags.keep, '--keep') }),
    ...(flags.unusedFor !== undefined && { unusedForMs: parseDuration(flags.unusedFor, '--unused-for') }),
  }
  if (!flags.yes && !flags.force && !await isAgreed(shell, describePrune(flags))) {
    await shell.output.note('nothing was deleted')
    return 0
  }
  const result = await shell.client().request<PruneResult>('POST', '/v1/images/prune', { body })
  if (flags.json) await shell.output.json(result)
  else {
    for (const digest of result.digests) await shell.output.line(digest)
    await shell.output.note(`${result.digests.length} ${result.digests.length === 1 ? 'image' : 'images'} deleted, ${describeSize(result.freedBytes)} freed`)
  }
  return 0
}

function describePrune ({ keep, unusedFor }: PruneFlags): string {
  const which = `images that no sandbox uses${unusedFor === undefined ? '' : ` and that were not used for ${unusedFor}`}`
  return keep === undefined ? `delete all ${which}` : `delete ${which} until images take at most ${keep}`
}

/** Asks on the terminal; where there is none nobody can agree. */
async function isAgreed (shell: Shell, what: string): Promise<boolean> {
  const { stdin, isTty } = shell.context
  if (!isTty.stdin) throw usage('prune: nobody can be asked here whether to delete images; say it with --yes')
  await shell.output.err(`This will ${what}. Go on? [y/N] `)
  const lines = createInterface({ input: stdin })
  const answer = await new Promise<string>(resolve => lines.once('line', resolve).once('close', () => resolve('')))
  lines.close()
  return /^\s*y(es)?\s*$/i.test(answer)
}

function usage (message: string): BerthError {
  return new BerthError('invalid_argument', 'usage', message)
}
