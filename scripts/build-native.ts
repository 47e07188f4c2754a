/** Compiles the programs in C: each folder of native/ into build/<its name>. Does nothing where that is up to date. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const sourceDir = join(root, 'native')
/** files works on files inside a sandbox; splice carries their bytes on the host. */
const programs = ['files', 'splice'] as const
type NativeProgram = typeof programs[number]
const buildDir = join(root, 'build')
const compiler = 'gcc'

const flags = [
  '-std=gnu17', '-O2', '-Wall', '-Wextra', '-Werror', '-Wshadow', '-Wvla', '-Wformat=2', '-Wstrict-prototypes', '-Wmissing-prototypes',
  '-D_GNU_SOURCE', '-D_FILE_OFFSET_BITS=64', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=2',
  '-fstack-protector-strong', '-fstack-clash-protection', '-fno-strict-aliasing', '-ffunction-sections', '-fdata-sections',
  '-static', '-s', '-Wl,--gc-sections', '-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack',
]

/** As `flags`, for a program that finds its own faults; it is not static, so it runs on this host only. */
const sanitizeFlags = [
  ...flags.filter((flag) => !['-static', '-s', '-O2', '-Wl,--gc-sections'].includes(flag) && !flag.includes('FORTIFY')),
  '-O1', '-g', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=all',
]

export interface NativeBuild {
  /** The program, absolute. */
  path: string
  isRebuilt: boolean
}

/** What is missing when the compiler does not start, or cannot link; by what it wrote. */
function explain (stderr: string): string {
  if (/cannot find -lc\b|cannot find -lm\b/.test(stderr)) return 'libc.a is missing: install libc6-dev (apt-get install libc6-dev)'
  if (/fatal error: .*\.h: No such file/.test(stderr)) return `headers are missing: install libc6-dev and linux-libc-dev (apt-get install libc6-dev linux-libc-dev)\n${stderr}`
  return `a program of native/ does not compile:\n${stderr}`
}

/**
 * Compiles what has changed since the last time: sources, flags or compiler. Several at once do not disturb each other.
 * @param options.quiet say nothing, also not when it compiles.
 * @throws Error that names the package that is missing, or has what the compiler says.
 */
export function buildNative ({ quiet = false }: { quiet?: boolean } = {}): void {
  for (const program of programs) buildProgram(program, { quiet })
}

/**
 * Compiles one program.
 * @param options.isSanitized make build/<program>-sanitized, which ends at the first fault of memory or arithmetic.
 * @throws as buildNative does.
 */
export function buildProgram (program: NativeProgram, { quiet = false, isSanitized = false }: { quiet?: boolean, isSanitized?: boolean } = {}): NativeBuild {
  const name = isSanitized ? `${program}-sanitized` : program
  const [path, stampPath] = [join(buildDir, name), join(buildDir, `.${name}-stamp`)]
  const version = spawnSync(compiler, ['--version'], { encoding: 'utf8' })
  if (version.error !== undefined) throw new Error('gcc is missing: install it (apt-get install gcc libc6-dev)', { cause: version.error })

  const wanted = isSanitized ? sanitizeFlags : flags
  const folder = join(sourceDir, program)
  const sources = readdirSync(folder).filter((file) => /\.[ch]$/.test(file)).sort()
  const hash = createHash('sha256').update(JSON.stringify([version.stdout, wanted]))
  for (const file of sources) hash.update(`\0${file}\0`).update(readFileSync(join(folder, file)))
  const stamp = hash.digest('hex')
  const hasStamp = existsSync(path) && existsSync(stampPath) && readFileSync(stampPath, 'utf8') === stamp
  if (hasStamp) return { path, isRebuilt: false }

  if (!quiet) console.log(`compiling native/${program} to build/${name}`)
  mkdirSync(buildDir, { recursive: true })
  const temporary = `${path}.${process.pid}`
  try {
    const units = sources.filter((file) => file.endsWith('.c')).map((file) => join(folder, file))
    const { status, stderr } = spawnSync(compiler, [...wanted, '-o', temporary, ...units], { encoding: 'utf8' })
    if (status !== 0) throw new Error(explain(stderr))
    rmSync(stampPath, { force: true })
    renameSync(temporary, path)
    writeFileSync(`${temporary}.stamp`, stamp)
    renameSync(`${temporary}.stamp`, stampPath)
  } finally {
    for (const left of [temporary, `${temporary}.stamp`]) rmSync(left, { force: true })
  }
  return { path, isRebuilt: true }
}

if (import.meta.main) {
  try {
    const quiet = process.argv.includes('--quiet')
    if (process.argv.includes('--sanitized')) buildProgram('files', { quiet, isSanitized: true })
    else buildNative({ quiet })
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exitCode = 1
  }
}
