import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { inspectTar, type TarInspection } from '../../../src/services/images/layers/tar-inspector.ts'
import { directory, entry, gnuLong, pax, tar } from '../../support/tar-writer.ts'

test('entries are counted without the headers that belong to them', () => {
  assert.equal(inspect(tar(directory('d'), pax([['path', 'd/a']]), entry({ name: 'x' }, 'data'), gnuLong('L', 'd/b'), entry({ name: 'y', magic: 'ustar  \0' }))).entries, 3)
})

test('a megabyte of data is not read to see its headers', () => {
  const archive = tar(entry({ name: 'large' }, Buffer.alloc(8 * 1024 ** 2)), entry({ name: 'after' }, 'x'))
  let readBytes = 0
  inspectTar(archive.length, (offset, length) => {
    const bytes = archive.subarray(offset, offset + length)
    readBytes += bytes.length
    return bytes
  })
  assert.ok(readBytes < 1024 ** 2, `${readBytes} bytes`)
})

test('whatever byte of an archive is changed, it is accepted or refused with a reason', () => {
  const archive = tar(directory('./'), pax([['path', 'd/long'], ['SCHILY.xattr.user.x', 'y']]), entry({ name: 'x', prefix: 'p' }, 'data'), gnuLong('K', 'd/long'), entry({ name: 'l', type: '1', magic: 'ustar  \0' }),
    entry({ name: 'd/.wh.gone' }), entry({ name: 'dev/null', type: '3', major: 1, minor: 3 }))
  inspect(archive)
  for (let at = 0; at < archive.length; at++) {
    for (const value of [0, 0x2f, 0x2e, 0x30, 0x39, 0x80, 0xff]) {
      const changed = Buffer.from(archive)
      changed[at] = value
      // A header with a wrong checksum says nothing about the rest: half of them are made right again.
      if (at % 2 === 0) repair(changed, at - at % 512)
      try {
        inspect(changed)
      } catch (error) {
        assert.ok(error instanceof BerthError, `byte ${at} as ${value}: ${String(error)}`)
      }
    }
  }
})

test('an archive cut off at any place is refused with a reason', () => {
  const archive = tar(pax([['path', 'a']]), entry({ name: 'x' }, Buffer.alloc(700)), entry({ name: 'y' }, 'data'))
  for (let length = 0; length < archive.length; length++) assert.throws(() => inspect(archive.subarray(0, length)), (error: unknown) => error instanceof BerthError, `${length} bytes`)
})

function inspect (archive: Buffer): TarInspection {
  return inspectTar(archive.length, (offset, length) => archive.subarray(offset, offset + length))
}

function repair (archive: Buffer, at: number): void {
  if (archive[at] === 0) return
  archive.fill(' ', at + 148, at + 156)
  const sum = archive.subarray(at, at + 512).reduce((total, byte) => total + byte, 0)
  archive.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1')
}
