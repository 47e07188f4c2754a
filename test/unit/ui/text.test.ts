import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatCommandLine, parseCommandLine } from '../../../src/ui/text/command-line.ts'
import { describeEvent } from '../../../src/ui/text/event-text.ts'
import { joinPath, pathSteps, placeQuery, shownName, sortEntries } from '../../../src/ui/text/file-place.ts'
import { parseBytes, parseCores, parseDuration, parseList, parsePairs, parseWhole } from '../../../src/ui/text/form-values.ts'
import { formatAge, formatBytes, formatCores, formatDuration, formatEnd, formatRemaining, formatWords, shortDigest } from '../../../src/ui/text/format.ts'
import { linkTarget, plainLine, safeFileName, sanitizeTitle } from '../../../src/ui/text/hostile-text.ts'
import { formatPlace, parsePlace } from '../../../src/ui/text/place.ts'
import { matchesFilter } from '../../../src/ui/text/sandbox-filter.ts'
import { visibleRange } from '../../../src/ui/text/visible-range.ts'
import type { FileEntry } from '../../../src/schemas/file.ts'

test('figures are short', () => {
  assert.deepEqual([0, 1023, 1024, 1536, 150 * 1024, 1024 ** 3].map(formatBytes), ['0 B', '1023 B', '1 KiB', '1.5 KiB', '150 KiB', '1 GiB'])
  assert.deepEqual([1000, 500, 2500].map(formatCores), ['1 core', '0.5 cores', '2.5 cores'])
  assert.deepEqual([-5, 0, 999, 59_000, 60_000, 3_725_000, 90_000_000].map(formatDuration), ['0s', '0s', '0s', '59s', '1m', '1h 2m', '1d 1h'])
})

test('times are told from the present', () => {
  const now = Date.parse('2026-03-01T12:00:00.000Z')
  assert.equal(formatAge('2026-03-01T10:30:00.000Z', now), '1h ago')
  assert.equal(formatRemaining('2026-03-01T12:01:30.000Z', now), '1m 30s')
  assert.equal(formatRemaining('2026-03-01T11:00:00.000Z', now), 'due')
})

test('codes and ends read as words', () => {
  assert.equal(formatWords('out_of_memory'), 'out of memory')
  assert.equal(formatWords('exitCode'), 'exit code')
  assert.equal(formatEnd({ reason: 'exited', exitCode: 3 }), 'exit code 3')
  assert.equal(formatEnd({ reason: 'signaled', signal: 'SIGKILL', exitCode: 137 }), 'signaled (SIGKILL)')
  assert.equal(formatEnd({ reason: 'requested' }), 'requested')
  assert.equal(shortDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), '0123456789ab')
})

test('an event is told in a line', () => {
  assert.equal(describeEvent({ data: { from: 'running', to: 'stopped', reason: 'out_of_memory', exitCode: 137 } }), 'running → stopped, reason out of memory, exit code 137')
  assert.equal(describeEvent({ data: { long: 'x'.repeat(1000) } }).length, 125)
})

test('a command line becomes the argv that a shell would make of it, and comes back', () => {
  assert.deepEqual(parseCommandLine(''), [])
  assert.deepEqual(parseCommandLine('  sh  -c \'echo "a b"\' '), ['sh', '-c', 'echo "a b"'])
  assert.deepEqual(parseCommandLine('a\\ b "c \\"d\\" \\n" \'\' e\'f\'"g"'), ['a b', 'c "d" \\n', '', 'efg'])
  assert.throws(() => parseCommandLine('echo "open'), /not closed/)
  for (const argv of [['a', 'b c'], ["it's", '', '$HOME', '"', '\\', 'new\nline']]) assert.deepEqual(parseCommandLine(formatCommandLine(argv)), argv)
})

test('fields are read as they are meant, and what is wrong is said', () => {
  assert.deepEqual(parsePairs('A=1\n\n B=x=y '), { A: '1', B: 'x=y ' })
  assert.equal(parsePairs(' \n'), undefined)
  assert.throws(() => parsePairs('nothing'), /NAME=value/)
  assert.deepEqual(['512m', '2 GiB', '1.5g', '100', ' '].map(parseBytes), [512 * 1024 ** 2, 2 * 1024 ** 3, 1.5 * 1024 ** 3, 100, undefined])
  assert.throws(() => parseBytes('much'), /not a size/)
  assert.deepEqual(['90', '10m', '1h 30m', '250ms', ''].map(parseDuration), [90_000, 600_000, 5_400_000, 250, undefined])
  assert.throws(() => parseDuration('10m soon'), /length of time/)
  assert.deepEqual([parseCores('0.5'), parseCores('')], [500, undefined])
  assert.throws(() => parseCores('-1'), /cores/)
  assert.deepEqual([parseWhole('-3'), parseWhole('')], [-3, undefined])
  assert.deepEqual(parseList('a.com, *.b.com\n10.0.0.0/8'), ['a.com', '*.b.com', '10.0.0.0/8'])
})

test('a title is one short line without what turns or hides text', () => {
  assert.equal(sanitizeTitle('vim\u0007\u001b[31m \u202egpj.exe\u200b'), 'vim[31m gpj.exe')
  assert.equal(sanitizeTitle('x'.repeat(500)).length, 80)
})

test('only plain web addresses are links', () => {
  assert.equal(linkTarget('https://example.com/a?b'), 'https://example.com/a?b')
  for (const bad of ['javascript:alert(1)', 'data:text/html,x', 'file:///etc/passwd', 'https://user:pw@example.com', 'blob:https://x/1', '//x', 'x']) assert.equal(linkTarget(bad), undefined, bad)
})

test('files are saved under harmless names', () => {
  assert.deepEqual(['../../etc/passwd', '.bashrc', 'a\u202eb"c:d', '', '..'].map(safeFileName), ['passwd', '_bashrc', 'ab_c_d', 'download', '_'])
})

test('a line of a log loses its colours, and keeps the end of a progress bar', () => {
  assert.equal(plainLine('\u001b[1;31mred\u001b[0m \u001b]0;title\u0007plain'), 'red plain')
  assert.equal(plainLine('10%\r50%\r100%\r'), '100%')
})

test('places go into the address and come back', () => {
  const made = formatPlace(['sandboxes', 'sbx_1', 'files'], { path: '/a b/ü#?&' })
  const { path, query } = parsePlace(made)
  assert.deepEqual([path, query.get('path')], [['sandboxes', 'sbx_1', 'files'], '/a b/ü#?&'])
  assert.deepEqual(parsePlace('').path, [])
  assert.deepEqual(parsePlace('#/%E0%A4%A').path, ['%E0%A4%A'])
})

test('a filter looks at id, image, command and labels, and at groups of statuses', () => {
  const sandbox = { id: 'sbx_1', status: 'running', image: { reference: 'python:3.12' }, entrypoint: ['sleep', '9'], labels: { team: 'blue' } }
  assert.equal(matchesFilter(sandbox, 'PYTHON team=blue', 'all'), true)
  assert.equal(matchesFilter(sandbox, 'sleep red', 'all'), false)
  assert.deepEqual(['running', 'active', 'ended', 'stopped'].map(status => matchesFilter(sandbox, '', status)), [true, true, false, false])
})

test('paths that are no text are named by their bytes', () => {
  const entry = { name: btoa('a\xff'), path: btoa('/a\xff'), encoding: 'base64' as const }
  assert.equal(shownName(entry), 'a\ufffd')
  assert.deepEqual(placeQuery({ path: entry.path, isBase64: true }), { path: entry.path, pathEncoding: 'base64' })
  assert.deepEqual(pathSteps({ path: '/a/b', isBase64: false }), [{ name: '/', path: '/' }, { name: 'a', path: '/a' }, { name: 'b', path: '/a/b' }])
  assert.deepEqual([joinPath('/', 'x'), joinPath('/a/', 'x')], ['/x', '/a/x'])
  const named = (name: string, type: FileEntry['type']) => ({ name, type }) as FileEntry
  assert.deepEqual(sortEntries([named('b', 'file'), named('z', 'directory'), named('a', 'file')]).map(({ name }) => name), ['z', 'a', 'b'])
})

test('short tables are drawn whole, of long ones what can be seen', () => {
  assert.deepEqual(visibleRange({ count: 120, first: 90, visible: 10 }), { from: 0, to: 120 })
  assert.deepEqual(visibleRange({ count: 500, first: 0, visible: 15 }), { from: 0, to: 65 })
  assert.deepEqual(visibleRange({ count: 500, first: 200, visible: 15 }), { from: 180, to: 245 })
  assert.deepEqual(visibleRange({ count: 500, first: 9999, visible: 15 }), { from: 485, to: 500 })
})
