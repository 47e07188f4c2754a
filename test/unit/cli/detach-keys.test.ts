import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DetachKeys, parseDetachKeys } from '../../../src/cli/detach-keys.ts'

test('keys are written as docker has them', () => {
  assert.deepEqual([...parseDetachKeys('ctrl-p,ctrl-q')], [16, 17])
  assert.deepEqual([...parseDetachKeys('ctrl-a,d')], [1, 100])
  assert.deepEqual([...parseDetachKeys('ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_')], [0, 27, 28, 29, 30, 31])
  for (const wrong of ['', 'ctrl-', 'ctrl-1', 'ab', 'alt-x', 'ctrl-p,']) assert.throws(() => parseDetachKeys(wrong), { code: 'usage' }, wrong)
})

for (const [keys, typed, passed, isDetached] of [
  ['ctrl-p,ctrl-q', 'ab\u0010\u0011cd', 'ab', true],
  ['ctrl-p,ctrl-q', 'a\u0010b\u0011', 'a\u0010b\u0011', false],
  ['ctrl-p,ctrl-q', '\u0010\u0010\u0011', '\u0010', true],
  ['a,a,b', 'aaab', 'a', true],
  ['a,b,a,c', 'ababac', 'ab', true],
  ['x', 'x', '', true],
] as const) {
  for (const size of [1, 100]) {
    test(`of ${JSON.stringify(typed)}, ${size} at once, ${JSON.stringify(passed)} is passed on with ${keys}`, () => {
      let got = ''
      let detached = 0
      const watched = new DetachKeys({ keys: parseDetachKeys(keys), onInput: bytes => { got += bytes.toString() }, onDetach: () => { detached++ } })
      for (let at = 0; at < typed.length; at += size) watched.take(Buffer.from(typed.slice(at, at + size)))
      watched.close()
      assert.deepEqual([got, detached], [passed, isDetached ? 1 : 0])
    })
  }
}

test('the first key alone is passed on after a while', async () => {
  const got = Promise.withResolvers<string>()
  const watched = new DetachKeys({ keys: parseDetachKeys('ctrl-p,ctrl-q'), onInput: bytes => got.resolve(bytes.toString()), onDetach: () => got.reject(new Error('detached')) })
  watched.take(Buffer.from('\u0010'))
  assert.equal(await got.promise, '\u0010')
  watched.close()
})
