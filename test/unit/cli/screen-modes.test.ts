import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ScreenModes } from '../../../src/cli/screen-modes.ts'
import { printable } from '../../../src/cli/printable.ts'

const normal = '\u001b[0m'

for (const [name, output, reset] of [
  ['plain text', 'hello\r\n\u001b[31mred', normal],
  ['the alternate screen', '\u001b[?1049h', `\u001b[?1049l${normal}`],
  ['one that was left', '\u001b[?1049h\u001b[?1049l', normal],
  ['several modes in one', '\u001b[?1000;1006h', `\u001b[?1000l\u001b[?1006l${normal}`],
  ['a hidden cursor', '\u001b[?25l', `\u001b[?25h${normal}`],
  ['one that is shown again', '\u001b[?25l\u001b[?25h', normal],
  ['an editor', '\u001b[?1049h\u001b[?1h\u001b=\u001b[?2004h\u001b[1;30r\u001b[?1002h', `\u001b[?1l\u001b[?2004l\u001b[?1002l\u001b>\u001b7\u001b[r\u001b8\u001b[?1049l${normal}`],
  ['a full reset', '\u001b[?1049h\u001b[?1000h\u001bc', normal],
  ['line drawing', '\u001b(0', `\u001b(B\u000f${normal}`],
] as const) {
  for (const size of [1, 1000]) {
    test(`${name} is taken back, seen ${size} at once`, () => {
      const modes = new ScreenModes()
      for (let at = 0; at < output.length; at += size) modes.watch(Buffer.from(output.slice(at, at + size)))
      assert.equal(modes.reset(), reset)
      assert.equal(modes.reset(), normal)
    })
  }
}

test('names are shown without what a terminal would obey', () => {
  assert.equal(printable('a\\b ä 日本'), 'a\\b ä 日本')
  assert.equal(printable('a\n\\\u001b[31m\u009b\u202ex'), 'a\\n\\\\\\x1b[31m\\x9b\\u202ex')
})
