/** An image with what people use at a terminal: programs of this host with the libraries they need. `dir:` and its path is its reference. */
import { execFileSync } from 'node:child_process'
import { constants, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { findProgram } from '../../src/host/command.ts'
import type { Teardown } from './test-daemon.ts'

const programs = [
  'bash', 'cat', 'chmod', 'cksum', 'clear', 'date', 'dd', 'echo', 'env', 'false', 'head', 'id', 'ls', 'mkdir', 'mkfifo', 'mv', 'od', 'printf', 'rm', 'seq', 'sha256sum', 'sleep', 'stty',
  'tail', 'tr', 'true', 'tty', 'wc', 'yes', 'less', 'ps', 'tmux', 'top', 'tput', 'vim.tiny',
] as const

const terminals = ['xterm', 'xterm-256color', 'screen', 'screen-256color', 'tmux', 'tmux-256color', 'dumb']

const users = `root:x:0:0:root:/root:/bin/bash
u:x:1000:1000:u:/home/u:/bin/bash
nobody:x:65534:65534:nobody:/:/bin/false
`
const groups = `root:x:0:
tty:x:5:
u:x:1000:
nogroup:x:65534:
`

export interface ToolImageOptions {
  /** More programs of the host, by name. */
  programs?: readonly string[]
  /** More files: path inside → content. */
  files?: Readonly<Record<string, string | Buffer>>
}

/** Makes one, a few MB; it goes with the test. @throws Error that names what is not installed here. */
export function makeToolImage (t: Teardown, { programs: more = [], files = {} }: ToolImageOptions = {}): string {
  const root = mkdtempSync(join(tmpdir(), 'berth-tools-'))
  t.after(async () => rmSync(root, { recursive: true, force: true }))
  for (const dir of ['bin', 'etc', 'tmp', 'proc', 'sys', 'dev', 'root', 'home/u', 'workspace', 'usr/lib/locale', 'usr/share/terminfo', 'var/tmp']) mkdirSync(join(root, dir), { recursive: true })
  for (const dir of ['tmp', 'var/tmp']) execFileSync('chmod', ['1777', join(root, dir)])
  execFileSync('chown', ['1000:1000', join(root, 'home/u')])
  symlinkSync('../bin', join(root, 'usr/bin'))
  const found = [...programs, ...more].map(name => findProgram(name) ?? missing(name))
  for (const path of found) copyFileSync(realpathSync(path), join(root, 'bin', basename(path)), constants.COPYFILE_FICLONE)
  symlinkSync('bash', join(root, 'bin/sh'))
  symlinkSync('vim.tiny', join(root, 'bin/vi'))
  for (const library of librariesOf(found)) {
    mkdirSync(dirname(join(root, library)), { recursive: true })
    copyFileSync(library, join(root, library), constants.COPYFILE_FICLONE)
  }
  for (const name of terminals) copyTerminal(root, name)
  if (existsSync('/usr/lib/locale/C.utf8')) cpSync('/usr/lib/locale/C.utf8', join(root, 'usr/lib/locale/C.utf8'), { recursive: true })
  writeFileSync(join(root, 'etc/passwd'), users)
  writeFileSync(join(root, 'etc/group'), groups)
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), content)
  }
  return root
}

/** Absolute paths, as the loader of this host says them. */
function librariesOf (paths: readonly string[]): Set<string> {
  const output = execFileSync('ldd', [...paths], { encoding: 'utf8' })
  return new Set([...output.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path))
}

/** Where a host keeps its descriptions differs. One that it does not have is left out. */
function copyTerminal (root: string, name: string): void {
  for (const dir of ['/etc/terminfo', '/lib/terminfo', '/usr/share/terminfo', '/usr/lib/terminfo']) {
    const path = join(dir, name[0] ?? '', name)
    if (!existsSync(path)) continue
    const target = join(root, 'usr/share/terminfo', name[0] ?? '', name)
    mkdirSync(dirname(target), { recursive: true })
    writeFileSync(target, readFileSync(path))
    return
  }
}

function missing (name: string): never {
  throw new Error(`${name} is not installed here; run: npm run setup -- --tests`)
}
