import { test } from 'node:test'
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { importsOf, treeViolations, violationsOf } from '../../scripts/architecture.ts'

const repo = join(import.meta.dirname, '../..')

test('the sources keep to the import table, the packages\' homes and the naming rules', () => {
  const paths = globSync('src/**/*.{ts,tsx}', { cwd: repo })
  assert.ok(paths.length > 10, 'the sources are found')
  assert.deepEqual(treeViolations(paths.map((path) => ({ path, text: readFileSync(join(repo, path), 'utf8') }))), [])
})

const allowed: [path: string, text: string][] = [
  ['src/main.ts', 'import { startDaemon } from "./daemon.ts"; import { run } from "./cli/program.ts"; console.log(process.env.HOME)'],
  ['src/daemon.ts', 'import { buildApp } from "./app.ts"; import { Runsc } from "./host/runsc.ts"'],
  ['src/app.ts', 'import fastify from "fastify"; import { sandboxRoutes } from "./routes/sandboxes.ts"'],
  ['src/routes/sandboxes.ts', 'import type { SandboxManager } from "../services/sandboxes/sandbox-manager.ts"; import type { FastifyInstance } from "fastify"'],
  ['src/services/tokens/token-store.ts', 'import { DatabaseSync } from "node:sqlite"; import { newId } from "../../lib/id.ts"; import { BerthError } from "../../errors.ts"'],
  ['src/services/a/b.ts', 'import { c } from "../c/c.ts"'],
  ['src/host/command.ts', 'import { execa } from "execa"; import { spawn } from "node:child_process"'],
  ['src/cli/doctor.ts', 'import type { HostCheck } from "../services/host/host-checks.ts"'],
  ['src/schemas/exec.ts', 'import { Type } from "@sinclair/typebox"; import { Id } from "./wire.ts"'],
  ['src/host/oci-spec.ts', 'export const envOf = (process: { env: string[] }) => process.env'],
  ['src/host/mount.ts', '// process.env and import "fastify" in a comment\nexport const text = \'import "fastify"\''],
]

for (const [path, text] of allowed) {
  test(`allowed: ${path}: ${text.replaceAll('\n', ' ').slice(0, 90)}`, () => {
    assert.deepEqual(violationsOf({ path, text }), [])
  })
}

const forbidden: [path: string, text: string, expected: RegExp][] = [
  ['src/host/mount.ts', 'import { a } from "../services/a/a.ts"', /host may import lib, schemas, errors/],
  ['src/lib/id.ts', 'import { a } from "../host/command.ts"', /lib may import schemas, errors/],
  ['src/services/a/a.ts', 'import type { App } from "../../app.ts"', /services may import host, lib/],
  ['src/services/a/a.ts', 'export { x } from "../../routes/x.ts"', /services may import/],
  ['src/services/a/a.ts', 'const x = await import("../../daemon.ts")', /services may import/],
  ['src/services/a/a.ts', 'let x: import("../../routes/x.ts").X', /services may import/],
  ['src/routes/a.ts', 'import { b } from "../ws/b.ts"', /routes may import/],
  ['src/routes/a.ts', 'import { b } from "../daemon.ts"', /routes may import/],
  ['src/app.ts', 'import { b } from "./daemon.ts"', /app may import/],
  ['src/cli/run.ts', 'import { a } from "../services/host/host-checks.ts"', /cli may import lib/],
  ['src/cli/doctor.ts', 'import { a } from "../services/a/a.ts"', /cli may import lib/],
  ['src/daemon.ts', 'import { a } from "./cli/run.ts"', /daemon may import/],
  ['src/schemas/a.ts', 'import { a } from "../lib/id.ts"', /schemas import schemas alone/],
  ['src/schemas/a.ts', 'import { a } from "fastify"', /typebox alone/],
  ['src/errors.ts', 'import { a } from "./lib/id.ts"', /errors imports nothing/],
  ['src/errors.ts', 'import { a } from "node:fs"', /errors imports nothing/],
  ['src/plugins/a.ts', 'import { a } from "../lib/id.ts"', /not in the import table/],
  ['src/services/a/a.ts', 'import { execa } from "execa"', /only host may/],
  ['src/cli/run.ts', 'import { spawn } from "node:child_process"', /only host may/],
  ['src/services/a/a.ts', 'import koffi from "koffi"', /only host may/],
  ['src/services/a/a.ts', 'import fastify from "fastify"', /only app, routes, ws, gateway may/],
  ['src/daemon.ts', 'import swagger from "@fastify/swagger"', /only app, routes, ws, gateway may/],
  ['src/host/db.ts', 'import { DatabaseSync } from "node:sqlite"', /only services may/],
  ['src/daemon.ts', 'const home = process.env.HOME', /only src\/main.ts may/],
  ['src/config.ts', 'const home = process["env"].HOME', /only src\/main.ts may/],
  ['src/config.ts', 'import { env } from "node:process"', /only src\/main.ts may/],
  ['src/services/a/index.ts', '', /says nothing/],
  ['src/lib/utils.ts', '', /says nothing/],
  ['src/lib/string-helpers.ts', '', /says nothing/],
  ['src/lib/long.ts', '\n'.repeat(400) + 'x', /has 401 lines/],
]

for (const [path, text, expected] of forbidden) {
  test(`refused: ${path}: ${text.trim().slice(0, 90) || 'its name'}`, () => {
    const violations = violationsOf({ path, text })
    assert.equal(violations.length, 1, violations.join('\n'))
    assert.match(violations[0] ?? '', expected)
  })
}

test('two files of one name are refused', () => {
  const violations = treeViolations([{ path: 'src/lib/clock.ts', text: '' }, { path: 'src/host/clock.ts', text: '' }])
  assert.deepEqual(violations, ['clock.ts is the name of src/lib/clock.ts and src/host/clock.ts: names are unique in src'])
})

test('every way to import is seen', () => {
  const text = 'import a from "a"; import "b"; import type { C } from "c"; export * from "d"; export { e } from "e"; void import("f"); let g: import("g").G; require("h")'
  assert.deepEqual(importsOf({ path: 'src/x.ts', text }), ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'])
})
