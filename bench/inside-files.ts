/** Files of a sandbox: large ones up and down, and small ones, against cat by hand in the same sandbox. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Readable, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Client } from 'undici'
import { atLeastRatio, atMostRatio } from './claims.ts'
import { mustBe, timed } from './contestant.ts'
import type { InsideBench } from './inside.ts'
import type { TaskOutcome } from './tasks.ts'

const MB = 1e6
const largeRounds = 3
const largePath = '/workspace/large'
const smallPath = '/workspace/small'
const smallBytes = 1024
const piece = Buffer.alloc(64 * 1024, 'a line of sixty-three characters, which is as long as it gets..\n')
const transferWithinMs = 300_000

interface Contestant {
  upload: (bytes: number) => Promise<void>
  download: (path: string) => Promise<number>
}

export async function measureFiles (bench: InsideBench): Promise<TaskOutcome> {
  const client = new Client('http://localhost', { socketPath: join(bench.daemon.runDir, 'berth.sock'), headersTimeout: transferWithinMs, bodyTimeout: transferWithinMs })
  try {
    const bytes = bench.isQuick ? 100 * MB : 1000 * MB
    const contestants = { ours: overApi(bench, client), bare: byHand(bench) } as const
    const [up, down, small] = [{ ours: [] as number[], bare: [] as number[] }, { ours: [] as number[], bare: [] as number[] }, { ours: [] as number[], bare: [] as number[] }]
    for (let round = 0; round < largeRounds; round++) {
      for (const name of turns(round)) {
        bench.signal.throwIfAborted()
        await bench.run(['rm', '-f', largePath])
        up[name].push(bytes / MB / (await timed(() => contestants[name].upload(bytes)) / 1000))
        mustBe('the size of what was uploaded', Number(await bench.run(['stat', '-c', '%s', largePath])), bytes)
        down[name].push(bytes / MB / (await timed(async () => mustBe('the size of what was downloaded', await contestants[name].download(largePath), bytes)) / 1000))
      }
    }
    await bench.run(['rm', '-f', largePath])
    await bench.run(['sh', '-c', `head -c ${smallBytes} /dev/urandom > ${smallPath}`])
    for (let round = -1; round < bench.rounds * 2; round++) {
      for (const name of turns(round)) {
        bench.signal.throwIfAborted()
        const durationMs = await timed(async () => mustBe('the size of a small file', await contestants[name].download(smallPath), smallBytes))
        if (round >= 0) small[name].push(durationMs)
      }
    }
    const cat = (values: number[]) => ({ name: 'runsc exec … cat', values })
    return {
      claims: [
        { claim: `upload of ${bytes / MB} MB`, unit: 'MB/s', ours: up.ours, other: cat(up.bare), target: atLeastRatio(0.7) },
        { claim: `download of ${bytes / MB} MB`, unit: 'MB/s', ours: down.ours, other: cat(down.bare), target: atLeastRatio(0.7) },
        { claim: `read of a file of ${smallBytes} bytes`, unit: 'ms', ours: small.ours, other: cat(small.bare), target: atMostRatio(1.3) },
      ],
      notes: ['an upload of ours is in place, whole, when it is answered; by hand, cat writes into the file itself'],
    }
  } finally {
    await client.destroy()
  }
}

const turns = (round: number) => round % 2 === 0 ? ['ours', 'bare'] as const : ['bare', 'ours'] as const

function overApi ({ sandboxId }: InsideBench, client: Client): Contestant {
  const pathOf = (path: string) => `/v1/sandboxes/${sandboxId}/files?path=${encodeURIComponent(path)}`
  return {
    upload: async bytes => {
      const { statusCode, body } = await client.request({ method: 'PUT', path: pathOf(largePath), body: content(bytes), headers: { 'content-type': 'application/octet-stream', 'content-length': String(bytes) } })
      const text = await body.text()
      if (statusCode >= 300) throw new Error(`the upload was answered ${statusCode}: ${text}`)
    },
    download: async path => {
      const { statusCode, body } = await client.request({ method: 'GET', path: pathOf(path) })
      if (statusCode !== 200) throw new Error(`the download was answered ${statusCode}: ${await body.text()}`)
      return await count(body)
    },
  }
}

function byHand (bench: InsideBench): Contestant {
  const start = async (argv: string[]) => {
    const [program = '', ...args] = await bench.byHand(argv)
    return spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'], timeout: transferWithinMs, killSignal: 'SIGKILL', detached: true })
  }
  return {
    upload: async bytes => {
      const child = await start(['sh', '-c', `cat > ${largePath}`])
      const closed = once(child, 'close')
      await pipeline(content(bytes), child.stdin as Writable)
      mustBe('the exit code of cat', (await closed)[0], 0)
    },
    download: async path => {
      const child = await start(['cat', path])
      child.stdin?.end()
      const closed = once(child, 'close')
      const bytes = await count(child.stdout as Readable)
      mustBe('the exit code of cat', (await closed)[0], 0)
      return bytes
    },
  }
}

function content (bytes: number): Readable {
  let rest = bytes
  return new Readable({
    highWaterMark: 4 * piece.length,
    read () {
      if (rest === 0) return void this.push(null)
      const next = piece.subarray(0, Math.min(rest, piece.length))
      rest -= next.length
      this.push(next)
    },
  })
}

async function count (stream: Readable): Promise<number> {
  let bytes = 0
  for await (const chunk of stream as AsyncIterable<Buffer>) bytes += chunk.length
  return bytes
}
