import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  decodeAdvanced, decodeJson, decodeOutput, decodeTaken, encodeAdvancedFrame, encodeFrame, encodeFrameHeader, encodeJsonFrame, encodeOutputHeader,
  encodeTakenFrame, frameHeaderBytes, FrameReader, type PtyFrame,
} from '../../../src/services/terminals/server/pty-frames.ts'
import { frameKinds } from '../../../src/services/terminals/server/pty-protocol.ts'

const id = 'trm_2c7w9xq1tz4k8vm3h5np'

function framesIn (reader: FrameReader, chunk: Buffer): PtyFrame[] {
  const frames: PtyFrame[] = []
  reader.push(chunk, frame => frames.push(frame))
  return frames
}

test('frames are as the protocol says, byte for byte', () => {
  const frame = encodeFrame(frameKinds.input, id, Buffer.from('ls\n'))
  assert.deepEqual(frame, Buffer.concat([Buffer.from([28, 0, 0, 0, 3]), Buffer.from(id), Buffer.from('ls\n')]))
  assert.deepEqual(encodeFrame(frameKinds.request, '', Buffer.alloc(0)), Buffer.concat([Buffer.from([25, 0, 0, 0, 1]), Buffer.alloc(24)]))
})

test('frames survive any cut of a stream', () => {
  const anyFrame = fc.record({ kind: fc.integer({ min: 1, max: 7 }), terminalId: fc.constantFrom('', id), payload: fc.uint8Array({ maxLength: 200 }) })
  fc.assert(fc.property(fc.array(anyFrame, { maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 8 }), (frames, cuts) => {
    const stream = Buffer.concat(frames.map(({ kind, terminalId, payload }) => encodeFrame(kind, terminalId, payload)))
    const reader = new FrameReader()
    const read: PtyFrame[] = []
    for (let position = 0, turn = 0; position < stream.length; turn++) {
      const size = cuts[turn % cuts.length] ?? 1
      // What it lends may be written over as soon as it has called back.
      const chunk = Buffer.from(stream.subarray(position, position += size))
      reader.push(chunk, frame => read.push({ ...frame, payload: Buffer.from(frame.payload) }))
      chunk.fill(0)
    }
    assert.deepEqual(read, frames.map(frame => ({ ...frame, payload: Buffer.from(frame.payload) })))
  }))
})

test('what each kind carries comes back', () => {
  const read = (...parts: Buffer[]): PtyFrame => framesIn(new FrameReader(), Buffer.concat(parts))[0]!
  const offset = 2 ** 45 + 3
  assert.deepEqual(decodeOutput(read(encodeOutputHeader(id, offset, 2), Buffer.from('ab'))), { offset, bytes: Buffer.from('ab') })
  assert.equal(decodeAdvanced(read(encodeAdvancedFrame(id, offset))), offset)
  assert.equal(decodeTaken(read(encodeTakenFrame(id, 77))), 77)
  assert.deepEqual(decodeJson(read(encodeJsonFrame(frameKinds.answer, id, { id: 1 }))), { id: 1 })
  assert.deepEqual(read(encodeFrameHeader(frameKinds.input, id, 1), Buffer.from('x')), { kind: 3, terminalId: id, payload: Buffer.from('x') })
})

test('what is no frame is refused, before room is made for it', () => {
  const huge = encodeFrameHeader(frameKinds.input, id, 0)
  huge.writeUInt32LE(0xffff_ffff, 0)
  const unknown = encodeFrameHeader(frameKinds.input, id, 0)
  unknown[4] = 99
  const short = encodeFrameHeader(frameKinds.input, id, 0)
  short.writeUInt32LE(3, 0)
  for (const frame of [huge, unknown, short]) assert.throws(() => framesIn(new FrameReader(), frame), { code: 'invalid_frame' })
  assert.throws(() => framesIn(new FrameReader(100), encodeFrame(frameKinds.input, id, Buffer.alloc(72))), { code: 'invalid_frame' })
  assert.equal(framesIn(new FrameReader(100), encodeFrame(frameKinds.input, id, Buffer.alloc(100 - frameHeaderBytes))).length, 1)
  for (const payload of ['', 'NaN-----']) assert.throws(() => decodeAdvanced({ kind: 6, terminalId: id, payload: Buffer.from(payload).fill(0xff) }), { code: 'invalid_frame' })
  assert.throws(() => decodeJson({ kind: 1, terminalId: id, payload: Buffer.from('{') }), { code: 'invalid_frame' })
})
