/** The documents hold together. */
import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const repo = fileURLToPath(new URL('../../../', import.meta.url))

test('every link from one document to another file leads somewhere', () => {
  const documents = globSync(['*.md', 'docs/**/*.md', 'examples/*.md'], { cwd: repo })
  assert.ok(documents.includes('README.md'))
  const broken = documents.flatMap(document => {
    const text = readFileSync(join(repo, document), 'utf8').replace(/^```[^]*?^```/gm, '')
    return [...text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
      .map(([, target = '']) => target)
      .filter(target => !/^[a-z]+:/.test(target) && !existsSync(join(repo, dirname(document), target)))
      .map(target => `${document} → ${target}`)
  })
  assert.deepEqual(broken, [])
})

test('the changelog has an entry for the version in package.json', () => {
  const { version } = JSON.parse(readFileSync(join(repo, 'package.json'), 'utf8')) as { version: string }
  assert.ok(readFileSync(join(repo, 'CHANGELOG.md'), 'utf8').includes(`\n## ${version}\n`))
})
