/** What a preview costs beside a direct connection to the same program: throughput, and time added to a small answer. Interleaved, by path. */
import { once } from 'node:events'
import http, { type IncomingMessage } from 'node:http'
import { median } from './statistics.ts'

export interface PreviewFigures {
  /** MiB a second, medians. */
  directThroughput: number
  previewThroughput: number
  /** Milliseconds for a small answer on a kept connection, medians. */
  directMs: number
  previewMs: number
}

export interface PreviewPlaces {
  /** Base addresses, without a slash at the end: of the program itself, and of its preview. */
  directUrl: string
  previewUrl: string
  headers: Record<string, string>
}

export interface PreviewRounds {
  throughput: number
  latency: number
  mebibytes: number
}

const defaultRounds: PreviewRounds = { throughput: 5, latency: 500, mebibytes: 200 }

/** Measures a program that answers /small shortly and /<n> with n MiB. */
export async function measurePreview ({ directUrl, previewUrl, headers }: PreviewPlaces, rounds: PreviewRounds = defaultRounds): Promise<PreviewFigures> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const get = async (url: string, expected: number): Promise<number> => {
    const startedMs = performance.now()
    const [answer] = await once(http.get(url, { agent, headers }), 'response') as [IncomingMessage]
    let bytes = 0
    answer.on('data', (chunk: Buffer) => { bytes += chunk.length })
    await once(answer, 'end')
    if (answer.statusCode !== 200 || bytes !== expected) throw new Error(`${url} answered ${answer.statusCode} and ${bytes} bytes`)
    return performance.now() - startedMs
  }
  const measure = async (path: string, expected: number, times: number) => {
    const direct: number[] = []
    const preview: number[] = []
    for (let n = -Math.ceil(times / 10); n < times; n++) {
      const pair = [await get(`${directUrl}/${path}`, expected), await get(`${previewUrl}/${path}`, expected)] as const
      if (n < 0) continue
      direct.push(pair[0])
      preview.push(pair[1])
    }
    return { direct: median(direct), preview: median(preview) }
  }
  try {
    const small = await measure('small', 5, rounds.latency)
    const large = await measure(String(rounds.mebibytes), rounds.mebibytes * 1024 ** 2, rounds.throughput)
    return {
      directThroughput: rounds.mebibytes / large.direct * 1000,
      previewThroughput: rounds.mebibytes / large.preview * 1000,
      directMs: small.direct,
      previewMs: small.preview,
    }
  } finally {
    agent.destroy()
  }
}
