import { setTimeout as delay } from 'node:timers/promises'
import { BerthError, type ErrorKind } from '../errors.ts'
import type { Image, ImagePull, PullEvent } from '../schemas/image.ts'
import { listImages } from './image-finder.ts'
import { isPassing } from './log-follower.ts'
import type { ProgressMode } from './progress.ts'
import { PullDisplay, shortDigest } from './pull-display.ts'
import type { SandboxFlags } from './sandbox-options.ts'
import type { Shell } from './shell.ts'
import { describeMs, describeSize } from './units.ts'

export interface WatchOptions {
  mode: ProgressMode
  signal: AbortSignal
}

const pauseMs = 250

/**
 * Follows one pull to its end, showing how it gets on. A daemon that restarts on the way is waited for and asked
 * again: what was fetched is kept.
 */
export async function watchPull (shell: Shell, body: ImagePull, { mode, signal }: WatchOptions): Promise<Image> {
  const client = shell.client()
  using display = new PullDisplay(shell.output, mode, body.reference)
  for (let pass = 0; ; pass++) {
    try {
      for await (const event of client.stream<PullEvent>('POST', '/v1/images/pull', { body, signal })) {
        if (event.type === 'error') throw new BerthError(event.kind as ErrorKind, event.code, event.message, { details: { ...event.details, requestId: event.requestId } })
        if (event.type === 'progress') await display.update(event)
        else {
          const { type: _, ...image } = event
          await display.end(describePulled(image, display.elapsedMs))
          return image
        }
      }
    } catch (error) {
      // Only a daemon that is away passes by itself; a registry that is away is told.
      if (!isPassing(error, pass) || (error as BerthError).code === 'registry_unavailable') throw error
    }
    await delay(pauseMs, undefined, { signal })
    // Answers once the daemon is back, or fails for good.
    await client.request('GET', '/v1/host', { signal })
  }
}

/** Pulls what a sandbox needs before it is made, where someone looks on: creating one tells nothing of its pull. */
export async function pullBeforehand (shell: Shell, reference: string, flags: SandboxFlags, options: WatchOptions): Promise<void> {
  if (options.mode !== 'auto' || !shell.output.isTty.stderr || flags.pull === 'never' || !isFromRegistry(reference)) return
  if (flags.pull !== 'always') for await (const _ of listImages(shell.client(), { reference })) return
  await watchPull(shell, { reference, mode: 'lazy' }, options)
}

function isFromRegistry (reference: string): boolean {
  return reference !== 'berth/base' && !/^[a-z-]+:\//.test(reference)
}

function describePulled (image: Image, elapsedMs: number): string {
  const size = describeSize(image.sizeBytes)
  const what = image.state === 'complete' ? `complete, ${size}` : `usable, ${localShare(image)} of ${size} is here and the rest comes when it is read`
  return `${shortDigest(image.digest)} after ${describeMs(elapsedMs)}: ${what}`
}

/** How much of an image is on the host; 100 % only when all of it is. */
export function localShare ({ state, localBytes, sizeBytes }: Image): string {
  if (state === 'complete') return '100 %'
  return `${sizeBytes > 0 ? Math.min(99, Math.floor(localBytes / sizeBytes * 100)) : 0} %`
}
