/** The house rules that can be read off the sources: who may import whom, which package belongs where, how files are named. */
import ts from 'typescript'
import { posix } from 'node:path'

export interface SourceFile {
  /** From the root of the checkout, as `src/host/command.ts`. */
  path: string
  text: string
}

/**
 * What each part of src may import, beside itself, `errors` and `schemas`:
 *
 *   main → self-test → daemon → app → ws → routes | worker → services → host → lib
 *   main → gateway → ws → routes → services → host → lib
 *     └──→ cli → lib                  image-server | network-server | pty-host → services → host → lib
 */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  main: ['self-test', 'daemon', 'gateway', 'gateway-config', 'config', 'cli', 'app', 'services', 'host', 'lib'],
  'self-test': ['daemon', 'config', 'lib'],
  'image-server': ['services', 'host', 'lib'],
  'network-server': ['services', 'host', 'lib'],
  'pty-host': ['services', 'host', 'lib'],
  daemon: ['config', 'app', 'routes', 'ws', 'worker', 'services', 'host', 'lib'],
  gateway: ['gateway-config', 'ws', 'routes', 'services', 'host', 'lib'],
  'gateway-config': ['config', 'services', 'lib'],
  app: ['config', 'routes', 'ws', 'worker', 'services', 'host', 'lib'],
  routes: ['services', 'host', 'lib'],
  ws: ['routes', 'services', 'host', 'lib'],
  worker: ['services', 'host', 'lib'],
  services: ['host', 'lib'],
  host: ['lib'],
  config: ['services', 'lib'],
  lib: [],
  cli: ['lib'],
  ui: [],
  schemas: [],
  errors: [],
}

/** Imports that the table forbids and that are right all the same. */
const exceptions: ReadonlySet<string> = new Set([
  // `berth doctor` must work where the daemon cannot start.
  'src/cli/doctor.ts → src/services/host/host-checks.ts',
])

/** Packages that only some parts may import. A name that ends in a slash stands for all that begin with it. */
const packageHomes: readonly { packages: readonly string[], parts: readonly string[] }[] = [
  { packages: ['execa', 'node:child_process', 'child_process', 'koffi', 'node-pty'], parts: ['host'] },
  { packages: ['fastify', '@fastify/'], parts: ['app', 'routes', 'ws', 'gateway'] },
  { packages: ['ws'], parts: ['ws', 'cli'] },
  { packages: ['node:sqlite'], parts: ['services'] },
  { packages: ['tar'], parts: ['cli'] },
  { packages: ['preact', '@preact/', '@xterm/xterm', '@xterm/addon-fit', '@xterm/addon-search', '@xterm/addon-web-links'], parts: ['ui'] },
  { packages: ['@xterm/headless'], parts: ['services'] },
  { packages: ['@xterm/addon-serialize'], parts: ['services', 'ui'] },
  { packages: ['@grpc/'], parts: ['worker', 'gateway'] },
  { packages: ['ioredis', '@opentelemetry/'], parts: ['services'] },
]

const maximumLines = 400
const vagueNames = /^(index|utils?|helpers?|common|misc)$|-(utils?|helpers?)$/

/** The part of src that a file belongs to: its folder, or its own name at the top. */
export function partOf (path: string): string {
  const [first = ''] = path.replace(/^src\//, '').split('/')
  return first.replace(/\.tsx?$/, '')
}

/** Everything a file imports or exports from, dynamic and type imports too. */
export function importsOf ({ path, text }: SourceFile): string[] {
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier !== undefined) add(node.moduleSpecifier)
    else if (ts.isCallExpression(node) && (node.expression.kind === ts.SyntaxKind.ImportKeyword || node.expression.getText() === 'require')) add(node.arguments[0])
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node.argument.literal)
    ts.forEachChild(node, visit)
  }
  const add = (node: ts.Node | undefined): void => { if (node !== undefined && ts.isStringLiteralLike(node)) found.push(node.text) }
  visit(parse(path, text))
  return found
}

/** Whether a file reads the environment of its process. */
function readsEnvironment ({ path, text }: SourceFile): boolean {
  let does = false
  let isShadowed = false
  const visit = (node: ts.Node): void => {
    // A variable of that name, such as the process of an OCI spec, hides the global one.
    if ((ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isBindingElement(node)) && node.name.getText() === 'process') isShadowed = true
    if (ts.isPropertyAccessExpression(node) && node.name.text === 'env' && node.expression.getText() === 'process') does = true
    if (ts.isElementAccessExpression(node) && node.expression.getText() === 'process' && /env/.test(node.argumentExpression.getText())) does = true
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier) && /^(node:)?process$/.test(node.moduleSpecifier.text)) does ||= /\benv\b/.test(node.getText())
    ts.forEachChild(node, visit)
  }
  visit(parse(path, text))
  return does && !isShadowed
}

const parse = (path: string, text: string): ts.SourceFile => ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)

/** What one file of src does against the rules, a sentence each. */
export function violationsOf (file: SourceFile): string[] {
  const part = partOf(file.path)
  const violations: string[] = []
  for (const specifier of importsOf(file)) {
    const problem = specifier.startsWith('.') ? importProblem(file.path, part, specifier) : packageProblem(part, specifier)
    if (problem !== undefined) violations.push(`${file.path} imports ${specifier}: ${problem}`)
  }
  if (readsEnvironment(file) && file.path !== 'src/main.ts') violations.push(`${file.path} reads process.env: only src/main.ts may`)
  const lineCount = file.text.trimEnd().split('\n').length
  if (lineCount > maximumLines) violations.push(`${file.path} has ${lineCount} lines: ${maximumLines} is the most, 300 the aim`)
  const stem = posix.basename(file.path).replace(/\.d?\.?tsx?$/, '')
  if (vagueNames.test(stem)) violations.push(`${file.path} has a name that says nothing: name it after what it exports`)
  return violations
}

function importProblem (from: string, part: string, specifier: string): string | undefined {
  const target = posix.join(posix.dirname(from), specifier)
  const targetPart = partOf(target)
  // Data beside the sources, such as package.json.
  if (!target.startsWith('src/')) return part === 'main' || part === 'daemon' ? undefined : 'it lies outside src'
  if (targetPart === part || exceptions.has(`${from} → ${target}`)) return undefined
  if (part === 'errors') return 'errors imports nothing'
  if (part === 'schemas') return 'schemas import schemas alone'
  const allowed = mayImport[part]
  if (allowed === undefined) return `src/${part} is not in the import table`
  if (['errors', 'schemas', ...allowed].includes(targetPart)) return undefined
  return `${part} may import ${[...allowed, 'schemas', 'errors'].join(', ')}`
}

function packageProblem (part: string, specifier: string): string | undefined {
  if (part === 'errors') return 'errors imports nothing'
  if (part === 'schemas') return /^@sinclair\/typebox(\/|$)/.test(specifier) ? undefined : 'schemas import typebox alone'
  const home = packageHomes.find(({ packages }) => packages.some((name) => name.endsWith('/') ? specifier.startsWith(name) : specifier === name || specifier.startsWith(`${name}/`)))
  return home === undefined || home.parts.includes(part) ? undefined : `only ${home.parts.join(', ')} may`
}

/** What all files together do against the rules. */
export function treeViolations (files: readonly SourceFile[]): string[] {
  // A resource's schema and its route may share its name: they are one thing seen from two sides.
  const byName = Map.groupBy(files, ({ path }) => posix.basename(path).concat(partOf(path) === 'routes' ? ' (route)' : ''))
  const twins = [...byName].filter(([, sharers]) => sharers.length > 1)
    .map(([name, sharers]) => `${name} is the name of ${sharers.map(({ path }) => path).join(' and ')}: names are unique in src`)
  return [...files.flatMap(violationsOf), ...twins]
}
