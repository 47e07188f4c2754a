import assert from 'node:assert/strict'
import { test } from 'node:test'
import { unpackError } from '../../../src/host/umoci.ts'

// Captured from umoci 0.4.7 and setpriv 2.38, but for the paths.
const outputs: Array<[number, string, object, RegExp]> = [
  [1, '   ⨯ create rootfs: discard trailing archive bits: expected 15713 bytes (extra bytes in stream): verified reader size mismatch', { kind: 'invalid_argument', code: 'image_invalid' }, /promises/],
  [1, '   ⨯ create rootfs: unpack layer: read next entry: archive/tar: invalid tar header', { kind: 'invalid_argument', code: 'image_invalid' }, /not a tar archive/],
  [1, '   ⨯ create rootfs: unpack layer: unpack entry: x: unpack to regular file: write /tmp/x/rootfs/x: no space left on device', { kind: 'exhausted', code: 'disk_full' }, /disk space/],
  [127, 'setpriv: failed to execute umoci: No such file or directory', { kind: 'unavailable', code: 'program_not_found' }, /berth doctor/],
  [124, '', { kind: 'timed_out', code: 'image_unpack_timed_out' }, /1200 s/],
  [137, '', { kind: 'unavailable', code: 'image_unpack_interrupted' }, /try again/],
]

test('what umoci prints becomes a typed error without a host path', () => {
  for (const [exitCode, stderr, expected, message] of outputs) {
    const { kind, code, message: actual } = unpackError({ exitCode, stdout: '', stderr })
    assert.deepEqual({ kind, code }, expected, stderr)
    assert.match(actual, message)
    assert.doesNotMatch(actual, /\/tmp/)
  }
})
