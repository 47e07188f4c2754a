/**
 * Follows a log as clients do, in a process of its own: `log-client.ts JSON`, a FollowTask; prints a FollowResult.
 * Says `ready` on its standard error once every follower has the answer's head.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { WebSocket } from 'ws'

export interface FollowTask {
  socketPath: string
  /** Of what is followed, as in /v1/tasks/<id>/logs. */
  logPath: string
  /** How it is followed, by each of so many. */
  by: 'text' | 'sse' | 'websocket'
  followers: number
  /** Note of each line how old it was when it came. */
  isTimed?: boolean
}

export interface Followed {
  bytes: number
  /** SHA-1 of the bytes. */
  digest: string
  /** Between the first byte and the last, in milliseconds. */
  durationMs: number
  /** How often it was cut off, and read on from its cursor. */
  resumed: number
}

export interface FollowResult {
  followers: Followed[]
  /** Of each line, by the monitor's clock and by that of the program: how long ago it was read, and printed; in milliseconds. */
  sinceRead: number[]
  sincePrinted: number[]
}

interface Frame { type: string, cursor?: string, time?: string, at?: string, data?: string, text?: string, encoding?: BufferEncoding, partial?: boolean, message?: string }

/** Clock of the system with a part of a millisecond, whose whole ones Date.now() has. */
const clockOffsetMs = await readClockOffset()
const now = () => performance.now() + clockOffsetMs

const task = JSON.parse(process.argv[2] ?? '{}') as FollowTask
const result: FollowResult = { followers: [], sinceRead: [], sincePrinted: [] }

class Follower {
  cursor: string | undefined
  resumed = 0
  readonly #hash = createHash('sha1')
  #unfinished = ''
  #bytes = 0
  #firstMs = NaN
  #lastMs = NaN

  add (data: Buffer): void {
    if (data.length === 0) return
    this.#lastMs = now()
    if (Number.isNaN(this.#firstMs)) this.#firstMs = this.#lastMs
    this.#hash.update(data)
    this.#bytes += data.length
  }

  take (frame: Frame): void {
    if (frame.type === 'gap') throw new Error(`the log has a gap: ${frame.message}`)
    const text = frame.data ?? `${frame.text ?? ''}${frame.partial ? '' : '\n'}`
    this.add(Buffer.from(text, frame.encoding ?? 'utf8'))
    this.cursor = frame.cursor
    if (!task.isTimed) return
    const at = now()
    result.sinceRead.push(at - parseTime(frame.time ?? frame.at ?? ''))
    // A line that was written in two pieces has come with the second.
    const lines = (this.#unfinished + text).split('\n')
    this.#unfinished = lines.pop() ?? ''
    for (const line of lines) result.sincePrinted.push(at - Number(line.split(' ')[0]) * 1000)
  }

  end (): Followed {
    return { bytes: this.#bytes, digest: this.#hash.digest('hex'), durationMs: this.#lastMs - this.#firstMs, resumed: this.resumed }
  }
}

let opened = 0
function onOpen (follower: Follower): void {
  if (follower.resumed === 0 && ++opened === task.followers) process.stderr.write('ready\n')
}

async function followByHttp (follower: Follower): Promise<void> {
  const format = task.by === 'sse' ? 'sse' : 'text'
  const sent = request({ socketPath: task.socketPath, path: `${task.logPath}?follow=true&format=${format}`, agent: false }).end()
  const [response] = await once(sent, 'response') as [IncomingMessage]
  if (response.statusCode !== 200) throw new Error(`the log was answered ${response.statusCode}`)
  onOpen(follower)
  let rest = ''
  for await (const chunk of response as AsyncIterable<Buffer>) {
    if (format === 'text') {
      follower.add(chunk)
      continue
    }
    // Lines of the benchmark are ASCII: no character is broken.
    const messages = (rest + chunk.toString('latin1')).split('\n\n')
    rest = messages.pop() ?? ''
    for (const message of messages) {
      const data = /^data: ?(.*)$/m.exec(message)?.[1]
      const frame = data === undefined ? undefined : JSON.parse(data) as Frame
      if (frame?.type === 'line' || frame?.type === 'gap') follower.take(frame)
    }
  }
}

/** Reads on from its cursor for as long as it is cut off before the end. */
async function followBySocket (follower: Follower): Promise<void> {
  for (;;) {
    const cursor = follower.cursor === undefined ? '' : `?cursor=${follower.cursor}`
    const socket = new WebSocket(`ws+unix:${task.socketPath}:${task.logPath}/ws${cursor}`, { perMessageDeflate: false })
    let hasEnded = false
    socket.on('open', () => onOpen(follower))
    socket.on('message', (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as Frame
      if (frame.type === 'end') hasEnded = true
      else if (frame.type === 'error') throw new Error(frame.message)
      else follower.take(frame)
    })
    await once(socket, 'close')
    if (hasEnded) return
    follower.resumed++
  }
}

/** conmon writes nanoseconds, of which a Date keeps milliseconds. */
function parseTime (text: string): number {
  const beyond = /\.\d{3}(\d+)/.exec(text)?.[1] ?? '0'
  return Date.parse(text) + Number(`0.${beyond}`)
}

async function readClockOffset (): Promise<number> {
  let offset = -Infinity
  for (let round = 0; round < 20; round++) {
    const before = Date.now()
    let at = before
    while (at === before) at = Date.now()
    // It has just become what it says; the round in which that was seen earliest says it best.
    offset = Math.max(offset, at - performance.now())
    await new Promise(resolve => setImmediate(resolve))
  }
  return offset
}

const followers = Array.from({ length: task.followers }, () => new Follower())
await Promise.all(followers.map(task.by === 'websocket' ? followBySocket : followByHttp))
result.followers = followers.map(follower => follower.end())
process.stdout.write(JSON.stringify(result))
