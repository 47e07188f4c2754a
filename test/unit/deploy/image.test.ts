/** The Dockerfile and what goes into its context. No image is built here. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { accessSync, constants, existsSync, globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const repo = fileURLToPath(new URL('../../../', import.meta.url))
const read = (name: string): string => readFileSync(join(repo, name), 'utf8')
/** One instruction a line. */
const dockerfile = read('Dockerfile').replace(/^\s*#.*\n/gm, '').replace(/\\\n/g, ' ')

/** What COPY takes from the context, as opposed to an earlier stage. */
function copiedSources (): string[] {
  return [...dockerfile.matchAll(/^COPY (?!--from)(.+)$/gm)].flatMap(([, words = '']) => words.trim().split(/\s+/).slice(0, -1))
}

test('everything that the Dockerfile copies is there and in its context, and the context holds nothing else', () => {
  const allowed = read('.dockerignore').split('\n').filter(line => line.startsWith('!')).map(line => line.slice(1))
  const sources = copiedSources()
  assert.ok(sources.length > 8)
  assert.deepEqual(sources.filter(source => !existsSync(join(repo, source))), [])
  assert.deepEqual(sources.toSorted(), allowed.toSorted())
  assert.match(read('.dockerignore'), /^\*$/m)
})

test('whatever a host or gateway reads beside src is in the image', () => {
  const sources = globSync(['src/**/*.ts', 'src/*.ts'], { cwd: repo }).filter(name => !name.startsWith('src/ui/')).map(read).join('\n')
  const folders = [...sources.matchAll(/new URL\('(?:\.\.\/)+(libexec|proto|bin|native|scripts|openapi|docs|deploy|package\.json)/g)].map(([, folder = '']) => folder)
  assert.ok(folders.includes('proto') && folders.includes('libexec'))
  assert.deepEqual(folders.filter(folder => !copiedSources().includes(folder)), [])
})

test('every image has a pinned tag, and the last stage has no compiler', () => {
  const compose = read('docker-compose.yml')
  const images = [...dockerfile.matchAll(/^FROM (\S+)/gm), ...compose.matchAll(/^ +image: (\S+)/gm)].map(([, image = '']) => image)
  assert.ok(images.length >= 5)
  assert.deepEqual(images.filter(image => !/:\d+\.\d+(\.\d+)?(-[\w.]+)*$/.test(image)), [])
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '))
  assert.doesNotMatch(last, /\b(gcc|g\+\+|make|npm|python3)\b/)
  for (const program of ['runsc', 'conmon', 'tini', 'catatonit', 'busybox-static', 'nftables', 'iproute2', 'erofs-utils', 'gztool']) assert.match(last, new RegExp(`\\s${program}\\s`))
})

test('our own image has the version of this tree, wherever it is named', () => {
  const { version } = JSON.parse(read('package.json')) as { version: string }
  const named = ['docker-compose.yml', ...globSync('deploy/kubernetes/*.yaml', { cwd: repo })].flatMap(name => [...read(name).matchAll(/image: berth:(\S+)/g)].map(([, tag]) => tag))
  assert.ok(named.length >= 5)
  assert.deepEqual([...new Set(named)], [version])
})

test('the programs of the image can be run, and are shell', () => {
  const programs = globSync('deploy/container/*', { cwd: repo })
  assert.deepEqual(programs.map(name => name.split('/').at(-1)).toSorted(), ['enrol', 'entrypoint', 'healthcheck', 'make-secrets'])
  for (const name of programs) {
    accessSync(join(repo, name), constants.X_OK)
    execFileSync('sh', ['-n', join(repo, name)])
  }
})
