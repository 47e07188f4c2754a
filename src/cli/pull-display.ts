import type { PullProgress } from '../schemas/image.ts'
import type { Output } from './command-output.ts'
import type { ProgressMode } from './progress.ts'
import { shorten } from './table.ts'
import { describeMs, describeSize } from './units.ts'

type Layer = PullProgress['layers'][number]

// A pull of what is here already never flashes up.
const firstDrawMs = 150
const redrawMs = 100
const barWidth = 24
const shortDigestLength = 12
// Above and below the layers.
const otherLines = 2

/** Says on standard error how a pull gets on: on a terminal a bar for each layer, elsewhere a line for each step. */
export class PullDisplay {
  readonly #output: Output
  readonly #reference: string
  readonly #isLive: boolean
  readonly #isSilent: boolean
  readonly #startedAt = performance.now()
  readonly #told = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #progress: PullProgress | undefined
  #drawnLines = 0

  constructor (output: Output, mode: ProgressMode, reference: string) {
    this.#output = output
    this.#reference = shorten(reference, Infinity)
    this.#isSilent = mode === 'none'
    this.#isLive = mode === 'auto' && output.isTty.stderr
    if (this.#isLive) this.#timer = setInterval(() => this.#draw(), redrawMs)
  }

  get elapsedMs (): number {
    return performance.now() - this.#startedAt
  }

  async update (progress: PullProgress): Promise<void> {
    this.#progress = progress
    if (this.#isSilent || this.#isLive) return
    for (const line of describeSteps(progress, this.#reference)) {
      if (this.#told.has(line)) continue
      this.#told.add(line)
      await this.#output.err(`${line}\n`)
    }
  }

  /** Leaves one line in the place of the bars. */
  async end (text: string): Promise<void> {
    this[Symbol.dispose]()
    if (!this.#isSilent) await this.#output.err(`${this.#output.colors.dim(text)}\n`)
  }

  /** Takes the bars off the terminal. */
  [Symbol.dispose] (): void {
    clearInterval(this.#timer)
    if (this.#drawnLines > 0) this.#write(`\u001b[${this.#drawnLines}A\r\u001b[J`)
    this.#drawnLines = 0
  }

  #draw (): void {
    if (this.elapsedMs < firstDrawMs) return
    const { columns, rows } = this.#output.terminalSize
    const head = `pulling ${this.#reference}: ${describePhase(this.#progress)} … ${describeMs(this.elapsedMs)}`
    // A line as wide as the terminal would take two on some, and the way back up would be wrong.
    const lines = [head, ...drawLayers(this.#progress?.layers ?? [], Math.max(1, rows - otherLines))].map(line => shorten(line, columns - 1))
    const up = this.#drawnLines > 0 ? `\u001b[${this.#drawnLines}A` : ''
    this.#write(`${up}\r${lines.map(line => `\u001b[2K${this.#output.colors.dim(line)}\n`).join('')}\u001b[J`)
    this.#drawnLines = lines.length
  }

  #write (text: string): void {
    void this.#output.err(text).catch(() => {})
  }
}

/** `42 of 453 MiB`, as far as a person can be told. */
function describePhase (progress: PullProgress | undefined): string {
  if (!progress || progress.sizeBytes === 0) return progress?.phase ?? 'resolving'
  return `${progress.phase}, ${describeSize(progress.fetchedBytes)} of ${describeSize(progress.sizeBytes)}`
}

/** Everything worth a line so far; the same step always gives the same line. */
function describeSteps (progress: PullProgress, reference: string): string[] {
  const { layers, sizeBytes } = progress
  const ready = layers.filter(({ state }) => state === 'lazy' || state === 'complete')
  return [
    `resolving ${reference}`,
    ...(layers.length > 0 ? [`fetching ${layers.length} ${layers.length === 1 ? 'layer' : 'layers'}, ${describeSize(sizeBytes)}`] : []),
    ...ready.map(layer => `${shortDigest(layer.digest)}: ${layer.state === 'lazy' ? 'ready, content comes when it is read' : 'complete'}`),
  ]
}

/** Where there are more than rows, those that are done give way first. */
function drawLayers (layers: Layer[], rows: number): string[] {
  if (layers.length <= rows) return layers.map(drawLayer)
  const pending = layers.filter(({ state }) => state !== 'complete')
  const shown = (pending.length > 0 ? pending : layers).slice(0, rows - 1)
  return [...shown.map(drawLayer), `and ${layers.length - shown.length} more layers`]
}

function drawLayer (layer: Layer): string {
  const [done, all] = layer.state === 'fetching' ? [layer.fetchedBytes, layer.sizeBytes] : [layer.localBytes, layer.totalBytes]
  const share = layer.state === 'complete' ? 1 : all > 0 ? Math.min(1, done / all) : 0
  const filled = Math.floor(share * barWidth)
  const facts = layer.state === 'complete' ? 'complete' : layer.state === 'absent' ? 'waiting' : `${describeSize(done)} of ${describeSize(all)}`
  return `${shortDigest(layer.digest)} ${'━'.repeat(filled)}${'─'.repeat(barWidth - filled)} ${String(Math.floor(share * 100)).padStart(3)} %  ${facts}`
}

/** The first 12 digits of a digest, without the name of its algorithm. */
export function shortDigest (digest: string): string {
  return digest.slice(digest.indexOf(':') + 1).slice(0, shortDigestLength)
}
