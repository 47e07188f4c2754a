/** The table of the image benchmark: one row per claim and link, with its target and whether it is met. */
import type { ImageOutcome } from './images.ts'
import type { ColdStart, Link } from './image-samples.ts'
import { isWithin, print, printRows, spread, targetText, type Target } from './report.ts'
import { median } from './statistics.ts'

interface Samples { name: string, values: number[] }

export interface ImageRow {
  claim: string
  link: Link
  unit: string
  ours: number[]
  /** What it is compared with. */
  other?: Samples
  ratio?: number
  /** Absent: a figure for information. */
  target?: Target
  isMet?: boolean
}

const linkNames: Readonly<Record<Link, string>> = { wan: '60 MB/s, 10 ms', loopback: 'loopback' }

const coldStarts: ReadonlyArray<[ColdStart, string]> = [
  ['cold, index here', 'cold start, index here'],
  ['cold, index and profile here', 'cold start, index and boot profile here'],
  ['cold, index in the registry', 'cold start on a new host, index in the registry'],
  ['cold, index and profile in the registry', 'cold start on a new host, index and boot profile in the registry'],
]

interface Claim { claim: string, unit: string, ours: number[], other?: Samples, target?: Target, ratioOf?: 'ours / other' | 'other / ours' }

export function judgeImages ({ image, samples }: ImageOutcome): ImageRow[] {
  return (['wan', 'loopback'] as const).flatMap(link => {
    const warm = { name: 'warm', values: samples.of(link, 'warm') }
    const podman = { name: 'podman pull + start', values: samples.sumOf(link, 'podman pull', 'podman start') }
    const skopeo = { name: 'skopeo + umoci + runsc', values: samples.sumOf(link, 'skopeo and umoci', 'skopeo start') }
    const blobs = { name: 'all of the image', values: [image.blobBytes / 1e6] }
    const megabytes = (values: number[]) => values.map(bytes => bytes / 1e6)
    const claims: Claim[] = []
    const addMs = (claim: string, ours: number[], rest: Partial<Claim> = {}) => claims.push({ claim, unit: 'ms', ours, ...rest })
    for (const [measure, what] of coldStarts) {
      const ours = samples.of(link, measure)
      addMs(`${what} → first output`, ours, { other: warm, target: ratio('at most', 1.5) })
      addMs(`${what}, against podman`, ours, { other: podman, target: ratio('at least', 10), ratioOf: 'other / ours' })
      addMs(`${what}, against skopeo`, ours, { other: skopeo, target: ratio('at least', 10), ratioOf: 'other / ours' })
      claims.push({ claim: `${what}, fetched until then`, unit: 'MB', ours: megabytes(samples.of(link, `${measure}, bytes`)), other: blobs, target: ratio('at most', 0.1) })
    }
    const eager = samples.of(link, 'eager pull')
    addMs('eager pull', eager, { other: { name: 'podman pull', values: samples.of(link, 'podman pull') }, target: ratio('at least', 2), ratioOf: 'other / ours' })
    addMs('eager pull, against skopeo', eager, { other: { name: 'skopeo + umoci', values: samples.of(link, 'skopeo and umoci') }, ratioOf: 'other / ours' })
    addMs('first start of a complete image', samples.of(link, 'first start of a complete image'), { other: warm })
    addMs('start after a restart, layers not mounted', samples.of(link, 'after a restart of the daemon'), { other: warm })
    addMs('rootfs step of a second sandbox', samples.of(link, 'rootfs step'), { target: value('at most', 15) })
    addMs('image step of a second sandbox', samples.of(link, 'image step'))
    claims.push({ claim: 'requests to the registry by a second sandbox', unit: '', ours: samples.of(link, 'requests of a second sandbox'), target: value('at most', 0) })
    for (const [measure, what] of [['first read', '200 MB read in gVisor, from the disk'], ['repeated read', '200 MB read in gVisor, again']] as const) {
      const other = { name: 'directory', values: samples.of(link, `${measure} of a directory`) }
      claims.push({ claim: what, unit: 'MB/s', ours: samples.of(link, measure), other, target: ratio('at least', 0.9) })
    }
    return claims.filter(({ ours }) => ours.length > 0).map(claim => judgeClaim(link, claim))
  })
}

export function printImages (rows: readonly ImageRow[], { image }: ImageOutcome, rounds: number): void {
  print('')
  print(`images: ${image.layers} layers, ${image.files} files, ${(image.blobBytes / 1e6).toFixed(0)} MB of gzip, ${(image.tarBytes / 1e9).toFixed(2)} GB of tar; ${rounds} rounds`)
  print('disks are synced before each time begins; the page cache is dropped before reads "from the disk" and before cold starts with a local index (the registry\'s files are read again after that)')
  printRows([
    ['', 'network', 'ours', 'other', '', 'ratio', 'target', 'met'],
    ...rows.map(({ claim, link, unit, ours, other, ratio, target, isMet }) => [
      `${claim} (n = ${ours.length})`,
      linkNames[link],
      spread(ours, unit),
      other && other.values.length > 0 ? spread(other.values, unit) : '',
      other && other.values.length > 0 ? other.name : '',
      ratio === undefined ? '' : ratio.toFixed(2),
      target ? targetText(target, unit) : '',
      target ? isMet === true ? 'yes' : 'no' : '',
    ]),
  ])
}

function judgeClaim (link: Link, { claim, unit, ours, other, target, ratioOf = 'ours / other' }: Claim): ImageRow {
  const quotient = other && other.values.length > 0 ? median(ours) / median(other.values) : undefined
  const ratio = quotient !== undefined && ratioOf === 'other / ours' ? 1 / quotient : quotient
  const row: ImageRow = { claim, link, unit, ours, ...(other ? { other } : {}), ...(ratio === undefined ? {} : { ratio }) }
  // Against what is not installed nothing can be claimed.
  if (!target || (target.of === 'ratio' && ratio === undefined)) return row
  return { ...row, target, isMet: isWithin(target, target.of === 'ratio' ? ratio ?? NaN : median(ours)) }
}

function ratio (bound: Target['bound'], limit: number): Target {
  return { of: 'ratio', bound, limit }
}

function value (bound: Target['bound'], limit: number): Target {
  return { of: 'value', bound, limit }
}
