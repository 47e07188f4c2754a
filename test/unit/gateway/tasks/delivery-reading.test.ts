import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import fc from 'fast-check'
import { DeliveryPlace } from '../../../../src/gateway/logs/delivery-place.ts'
import { DeliveryReading, type DeliverySource } from '../../../../src/gateway/logs/delivery-reading.ts'
import type { KeptEntry } from '../../../../src/gateway/logs/buffered-output.ts'
import { longestFleetCursor, parseFleetCursor } from '../../../../src/gateway/logs/fleet-cursor.ts'
import { HostGoneError, type HostLogRead } from '../../../../src/gateway/logs/host-log-client.ts'
import { FleetTaskWatch } from '../../../../src/gateway/tasks/fleet-task-watch.ts'
import type { LogRecord, LogStream } from '../../../../src/schemas/log.ts'
import { LogReader } from '../../../../src/services/logs/log-reader.ts'
import { newOutputPair } from '../../../../src/services/outputs/output-pair.ts'
import { startPlace } from '../../../../src/services/outputs/output-place.ts'
import { anyPieceBytes, anyWrites, criFiles, output, outputOf, writeFiles, type Write } from '../../logs/cri-writer.ts'
import { makeAttempt, makeRecord } from './fleet-record.ts'

const fence = 7
const forever = new AbortController().signal

async function build (t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'berth-delivery-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  const logs = new LogReader()
  let count = 0
  return {
    logs,
    /** The log of a delivery as its host has it, and all of it as the buffer gets it. */
    async write (writes: readonly Write[], pieceBytes: number, entryBytes: number): Promise<{ dir: string, entries: KeptEntry[] }> {
      const dir = join(root, String(count++))
      await mkdir(dir)
      await writeFiles(dir, criFiles(writes, pieceBytes))
      const pair = newOutputPair({ entryBytes, place: startPlace() })
      const entries: KeptEntry[] = []
      for await (const record of logs.read({ dir, signal: forever, isEnded: () => true })) for (const { entry } of pair.push(record)) entries.push({ ...entry, fence })
      for (const { entry } of pair.end()) entries.push({ ...entry, fence })
      return { dir, entries }
    },
  }
}

/** A host that breaks off after so many records, call after call, and then no more; and a buffer that shows so many entries, then all. */
function sourceOf (logs: LogReader, dir: string, entries: readonly KeptEntry[], troubles: { records: number, entries: number }[]): DeliverySource {
  const record = makeRecord({ attempts: [makeAttempt({ fence, status: 'running' })] })
  const rest = [...troubles]
  let shown = 0
  return {
    table: { get: async () => record, watch: () => () => {} },
    hosts: {
      async * read ({ cursor, tail, stream, signal }: HostLogRead) {
        const trouble = rest.shift()
        shown = Math.max(shown, trouble?.entries ?? 0)
        let left = trouble?.records ?? Infinity
        for await (const record of logs.read({ dir, cursor, tail, stream, signal, isEnded: () => true })) {
          if (left-- === 0) throw new HostGoneError('cut off')
          yield [record]
        }
      },
    },
    buffer: {
      read: async () => ({ entries, complete: new Set() }),
      async * follow () { yield { entries: entries.slice(0, shown), complete: new Set<number>() } },
    },
    retry: { firstMs: 1, longestMs: 1 },
    overdueMs: 1,
    patienceMs: 1,
    watch: new FleetTaskWatch({ watch: () => () => {} }, record.id),
    refresh: async () => {},
    record: () => record,
    delivery: () => record.attempts[0],
  }
}

test('what comes from the host and from the buffer by turns is what was written, wherever readers come back', async t => {
  const { logs, write } = await build(t)
  const trouble = fc.record({ records: fc.nat(4), entries: fc.nat(12) })
  const cases = fc.record({
    writes: anyWrites,
    pieceBytes: anyPieceBytes,
    entryBytes: fc.constantFrom(4, 7, 65_536),
    troubles: fc.array(trouble, { maxLength: 8 }),
    stays: fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 6 }),
    only: fc.constantFrom<LogStream | undefined>(undefined, undefined, 'stdout', 'stderr'),
  })
  await fc.assert(fc.asyncProperty(cases, async ({ writes, pieceBytes, entryBytes, troubles, stays, only }) => {
    const { dir, entries } = await write(writes, pieceBytes, entryBytes)
    const source = sourceOf(logs, dir, entries, troubles)
    const seen: LogRecord[] = []
    let place = new DeliveryPlace(fence, { only })
    for (const stay of [...stays, Infinity]) {
      let left = stay
      for await (const batch of new DeliveryReading(fence, place, { source, follow: true, stream: only, signal: forever }).batches()) {
        seen.push(...batch)
        if ((left -= batch.length) <= 0) break
      }
      const last = seen.at(-1)
      if (!last) continue
      assert.ok(last.cursor.length <= longestFleetCursor)
      const parsed = parseFleetCursor(last.cursor)
      place = new DeliveryPlace(parsed.fence, { streams: parsed.streams, only })
    }
    assert.deepEqual(seen.filter(({ type }) => type === 'gap'), [])
    assert.deepEqual(outputOf(seen), output(writes, only))
  }), { numRuns: 120 })
})
