/** Builds the console of src/ui into build/console: one script, one style sheet, one page; each as it is and compressed. */
import { createHash } from 'node:crypto'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { brotliCompress, constants, gzip } from 'node:zlib'
import { build } from 'esbuild'

const root = join(import.meta.dirname, '..')
const sources = join(root, 'src/ui')
const destination = join(root, 'build/console')
const stamp = join(root, 'build/.console-stamp')
// Higher ones take ten times as long for a twentieth less.
const brotliQuality = 9

/** Does nothing where neither a source nor a package has changed since the last time. */
export async function buildConsole ({ quiet = false } = {}): Promise<void> {
  const startedAt = performance.now()
  const inputs = await hashInputs()
  if (await readFile(stamp, 'utf8').catch(() => '') === inputs && await readdir(destination).then(() => true, () => false)) {
    if (!quiet) console.log('console: up to date')
    return
  }
  const files = await bundle()
  const fresh = `${destination}.${process.pid}`
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { recursive: true })
  await Promise.all(files.flatMap(({ name, bytes }) => [
    writeFile(join(fresh, name), bytes),
    compressBrotli(bytes).then(packed => writeFile(join(fresh, `${name}.br`), packed)),
    promisify(gzip)(bytes, { level: 9 }).then(packed => writeFile(join(fresh, `${name}.gz`), packed)),
  ]))
  // Without a stamp whatever an interruption leaves is built again.
  await rm(stamp, { force: true })
  await rm(destination, { recursive: true, force: true })
  await rename(fresh, destination)
  await writeFile(stamp, inputs)
  if (!quiet) console.log(`console: built in ${Math.round(performance.now() - startedAt)} ms`)
}

interface BuiltFile {
  name: string
  bytes: Uint8Array
}

async function bundle (): Promise<BuiltFile[]> {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: { console: 'src/ui/main.tsx' },
    outdir: destination,
    entryNames: '[name]-[hash]',
    bundle: true,
    minify: true,
    write: false,
    format: 'esm',
    target: ['chrome123', 'firefox121', 'safari17.5'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    legalComments: 'none',
    logLevel: 'warning',
  })
  const files = outputFiles.map(({ path, contents }) => ({ name: basename(path), bytes: contents }))
  const nameOf = (ending: string) => files.find(({ name }) => name.endsWith(ending))!.name
  const page = (await readFile(join(sources, 'index.html'), 'utf8'))
    .replace('console.css', `console/${nameOf('.css')}`)
    .replace('console.js', `console/${nameOf('.js')}`)
  const icon = await readFile(join(sources, 'icon.svg'))
  return [...files, { name: 'icon.svg', bytes: icon }, { name: 'index.html', bytes: Buffer.from(page) }]
}

async function compressBrotli (bytes: Uint8Array): Promise<Buffer> {
  return await promisify(brotliCompress)(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: brotliQuality, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } })
}

async function hashInputs (): Promise<string> {
  const entries = await readdir(sources, { recursive: true, withFileTypes: true })
  const paths = entries.filter(entry => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name)).sort()
  const hash = createHash('sha256')
  for (const path of [...paths, join(root, 'package-lock.json'), import.meta.filename]) {
    hash.update(`${path.slice(root.length)}\0`).update(await readFile(path)).update('\0')
  }
  return hash.digest('hex')
}

if (import.meta.main) await buildConsole()
