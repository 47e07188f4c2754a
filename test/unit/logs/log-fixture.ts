import assert from 'node:assert/strict'
import { mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { LogReader, type LogReadOptions } from '../../../src/services/logs/log-reader.ts'

/** A log directory and a reader on it; the test fails when a follower or an open file is left. */
export async function build (t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-log-'))
  const reader = new LogReader()
  t.after(async () => {
    assert.equal(reader.watchedCount, 0, 'followers are left')
    assert.deepEqual(await openFilesUnder(dir), [], 'open files are left')
    await rm(dir, { recursive: true, force: true })
  })
  const options = (more: Partial<LogReadOptions> = {}): LogReadOptions => ({
    dir, signal: new AbortController().signal, isEnded: () => true, ...more,
  })
  return {
    dir,
    reader,
    options,
    path: (name = 'log') => join(dir, name),
    write: (content: string | Buffer, name = 'log') => writeFile(join(dir, name), content),
    read: (more: Partial<LogReadOptions> = {}): Promise<LogRecord[]> => collect(reader.read(options(more))),
  }
}

export async function collect<T> (items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

export function line (text: string, stream = 'stdout', tag = 'F'): string {
  return `2026-11-22T13:30:19.628000000+00:00 ${stream} ${tag} ${text}\n`
}

/** stdout F "abc" → "o:abc"; a partial line ends in "…"; a gap is "gap". */
export function brief (records: LogRecord[]): string[] {
  return records.map(record => record.type === 'gap' ? 'gap' : `${record.stream === 'stdout' ? 'o' : 'e'}:${record.text}${record.partial ? '…' : ''}`)
}

/** Deterministic pseudo-random numbers in [0, limit). */
export function randomFrom (seed: number): (limit: number) => number {
  let state = seed >>> 0
  return limit => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 2 ** 32 * limit)
  }
}

async function openFilesUnder (dir: string): Promise<string[]> {
  const targets = await Promise.all((await readdir('/proc/self/fd')).map(fd => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
  return targets.filter(target => target.startsWith(dir))
}
