/** The calls of the loop over tasks, each patient over any number of restarts. */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Event } from '../../src/schemas/event.ts'
import type { LogEnd, LogRecord, LogStream } from '../../src/schemas/log.ts'
import type { Task, TaskBatchResult, TaskCreate, TaskPage } from '../../src/schemas/task.ts'
import type { Ledger } from './ledger.ts'
import type { PatientClient, Reply } from './patient-client.ts'
import { difference } from './task-verdicts.ts'
import type { WebhookReceiver } from './webhook-receiver.ts'

/** The tasks of a long loop wait for minutes until it is their turn. */
const patienceMs = 1_800_000
/** From the last kill until all have ended. */
const lastEndWithinMs = 180_000
const pauseMs = 150
const endedStatuses = ['complete', 'failed', 'cancelled']

export class TaskCalls {
  readonly client: PatientClient
  readonly ledger: Ledger
  readonly #receiver: WebhookReceiver

  constructor (client: PatientClient, ledger: Ledger, receiver: WebhookReceiver) {
    this.client = client
    this.ledger = ledger
    this.#receiver = receiver
  }

  async push (key: string, create: Partial<TaskCreate>): Promise<Task> {
    const reply = await this.client.send<Task>('POST', '/tasks', { key, body: create })
    this.#must(reply, 201, `push of ${key}`)
    this.ledger.count('push')
    return reply.body
  }

  async pushBatch (key: string, tasks: Array<Partial<TaskCreate>>): Promise<Task[]> {
    const reply = await this.client.send<TaskBatchResult>('POST', '/tasks', { key, body: { tasks } })
    this.#must(reply, 201, `push of ${key}`)
    this.ledger.count('push of a batch')
    return reply.body.items
  }

  async get (id: string): Promise<Task> {
    const reply = await this.client.send<Task>('GET', `/tasks/${id}`)
    this.#must(reply, 200, `get ${id}`)
    return reply.body
  }

  async list (query = ''): Promise<Task[]> {
    const all: Task[] = []
    for (let cursor = ''; ;) {
      const reply = await this.client.send<TaskPage>('GET', `/tasks?limit=1000${query}${cursor}`)
      this.#must(reply, 200, `list ${query}`)
      all.push(...reply.body.items)
      if (reply.body.nextCursor === undefined) return all
      cursor = `&cursor=${reply.body.nextCursor}`
    }
  }

  async cancel (id: string, afterMs = 0): Promise<void> {
    await delay(afterMs)
    const reply = await this.client.send('POST', `/tasks/${id}/cancel`)
    this.#must(reply, 200, `cancel ${id}`)
    this.ledger.count('cancel')
  }

  async remove (id: string): Promise<void> {
    const reply = await this.client.send('DELETE', `/tasks/${id}`)
    if (reply.status === 404 && reply.losses > 0) return
    this.#must(reply, 204, `delete ${id}`)
  }

  async log (id: string, stream: LogStream): Promise<Buffer> {
    const reply = await this.client.send('GET', `/tasks/${id}/logs?format=text&stream=${stream}`)
    this.#must(reply, 200, `${stream} of ${id}`)
    return reply.bytes
  }

  /** Until standard output begins with a text, or the task has ended without. */
  async untilLog (id: string, text: string): Promise<void> {
    await this.#until(async () => (await this.log(id, 'stdout')).toString().startsWith(text) || endedStatuses.includes((await this.get(id)).status))
  }

  /** Until none waits or runs any more. Answers whether that came true. */
  async untilAllEnded (): Promise<boolean> {
    return await this.#until(async () => (await this.list('&status=pending,scheduled,running')).length === 0, lastEndWithinMs)
  }

  /** Follows a log to its end, and reads on from its last cursor whenever the connection is lost. Answers what it was told, put together. */
  async follow (id: string): Promise<Buffer> {
    const pieces: Buffer[] = []
    let cursor: string | undefined
    const until = Date.now() + patienceMs
    while (Date.now() < until) {
      try {
        for await (const record of this.#records(`/tasks/${id}/logs?follow=true&format=ndjson${cursor === undefined ? '' : `&cursor=${cursor}`}`)) {
          if (record.type === 'end') return Buffer.concat(pieces)
          pieces.push(bytesOf(record))
          cursor = record.cursor
        }
        // A log that is followed ends only with the task, and says so, or its daemon ends.
        if (endedStatuses.includes((await this.get(id)).status) && (await this.#rest(id, cursor)).length === 0) return Buffer.concat(pieces)
      } catch {
        this.ledger.count('follower cut off')
        await delay(pauseMs)
      }
    }
    this.ledger.blame(`${id} was followed, and its end never came`)
    return Buffer.concat(pieces)
  }

  /** Reads events from the first to the last, in pages, while daemons come and go. */
  async collectEvents (types: string, ending: AbortSignal, isComplete: (events: Event[]) => boolean): Promise<Event[]> {
    const events: Event[] = []
    let until = Infinity
    while (Date.now() < until) {
      const reply = await this.client.send<{ items: Event[] }>('GET', `/events?type=${types}&limit=1000&cursor=${events.at(-1)?.seq ?? 0}`)
      this.#must(reply, 200, 'events')
      events.push(...reply.body.items)
      if (ending.aborted) {
        if (until === Infinity) until = Date.now() + 20_000
        if (isComplete(events)) break
      }
      if (reply.body.items.length < 1000) await delay(pauseMs)
    }
    return events
  }

  /** A file that an output writes, once the output says that it is complete. */
  async checkFile (id: string, path: string, expected: Buffer): Promise<string[]> {
    const state = await this.#untilShipped(id)
    const actual = await readFile(path).catch(() => Buffer.alloc(0))
    return [...state, ...actual.equals(expected) ? [] : [`the file of its output is otherwise: ${difference(actual, expected)}`]]
  }

  /** What a destination was posted, each entry once, by their numbers. */
  async checkWebhook (id: string, path: string, expected: Buffer): Promise<string[]> {
    const state = await this.#untilShipped(id)
    const { output, statuses, problems } = this.#receiver.receivedAt(path)
    return [
      ...state,
      ...problems,
      ...output.equals(expected) ? [] : [`what its webhook was told is otherwise: ${difference(output, expected)}`],
      ...statuses === 'pending\nscheduled\nrunning\ncomplete\n' ? [] : [`its webhook was told of ${JSON.stringify(statuses)}`],
    ]
  }

  async #untilShipped (id: string): Promise<string[]> {
    let states: Task['outputStates']
    const isShipped = await this.#until(async () => {
      states = (await this.get(id)).outputStates
      return states?.length === 1 && states[0]?.status === 'complete'
    }, 60_000)
    return isShipped ? [] : [`its output did not become complete: ${JSON.stringify(states)}`]
  }

  async * #records (path: string): AsyncGenerator<LogRecord | LogEnd> {
    let rest = ''
    for await (const chunk of this.client.stream(path)) {
      const lines = (rest + chunk.toString('latin1')).split('\n')
      rest = lines.pop() ?? ''
      // Whole lines only: a piece of one may end within a character.
      for (const line of lines) if (line !== '') yield JSON.parse(Buffer.from(line, 'latin1').toString()) as LogRecord | LogEnd
    }
  }

  async #rest (id: string, cursor: string | undefined): Promise<Buffer> {
    const reply = await this.client.send('GET', `/tasks/${id}/logs?format=text${cursor === undefined ? '' : `&cursor=${cursor}`}`)
    this.#must(reply, 200, `rest of ${id}`)
    return reply.bytes
  }

  async #until (condition: () => Promise<boolean>, withinMs = patienceMs): Promise<boolean> {
    for (const until = Date.now() + withinMs; Date.now() < until; await delay(pauseMs)) if (await condition()) return true
    return false
  }

  #must (reply: Reply, status: number, what: string): void {
    if (reply.status === status) return
    this.ledger.blame(`${what} was answered ${reply.status} after ${reply.losses} lost connections: ${reply.text}`)
    throw new Error(`${what} was answered ${reply.status}: ${reply.text}`)
  }
}

function bytesOf (record: LogRecord): Buffer {
  if (record.type === 'gap') return Buffer.from(`[gap: ${record.message}]`)
  const text = Buffer.from(record.text, record.encoding ?? 'utf8')
  return record.partial ? text : Buffer.concat([text, Buffer.from('\n')])
}
