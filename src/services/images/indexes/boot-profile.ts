import { isObject } from '../image-config.ts'

/** What a boot of an image read, layer after layer in the order of their first reads; `spans` are numbers of the layer's span table, in their order. */
export type BootProfile = ReadonlyArray<{ digest: string, spans: readonly number[] }>

// What a boot reads first is a small part of an image: a few hundred spans.
const maxLayers = 256
const maxSpans = 16_384
const maxSpanNumber = 2 ** 24
/** The largest file that is read as a profile. */
export const maxProfileBytes = 512 * 1024
const digestPattern = /^sha256:[0-9a-f]{64}$/

/** The profile as JSON, cut to what a reader takes. */
export function encodeProfile (profile: BootProfile): Buffer {
  let left = maxSpans
  const layers = profile.slice(0, maxLayers).map(({ digest, spans }) => {
    const kept = spans.slice(0, left)
    left -= kept.length
    return { digest, spans: kept }
  })
  return Buffer.from(JSON.stringify({ version: 1, layers }))
}

/** Reads a profile, which may come from elsewhere; undefined unless it is one. */
export function decodeProfile (bytes: Buffer): BootProfile | undefined {
  if (bytes.length > maxProfileBytes) return undefined
  let json: unknown
  try {
    json = JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined
  }
  if (!isObject(json) || json.version !== 1 || !Array.isArray(json.layers) || json.layers.length > maxLayers) return undefined
  const profile: Array<{ digest: string, spans: number[] }> = []
  let count = 0
  for (const layer of json.layers as unknown[]) {
    if (!isObject(layer) || typeof layer.digest !== 'string' || !digestPattern.test(layer.digest) || !Array.isArray(layer.spans)) return undefined
    const spans = layer.spans as unknown[]
    if ((count += spans.length) > maxSpans || !spans.every(isSpanNumber)) return undefined
    profile.push({ digest: layer.digest, spans })
  }
  return profile
}

function isSpanNumber (value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maxSpanNumber
}
