/** Has network-probe.ts do things in a namespace of the host or in a sandbox, and makes the image that it runs in. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { constants, copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ProbeOp, ProbeOptions, ProbeValue } from './network-probe.ts'
import type { Teardown } from './test-daemon.ts'

const node = new URL('../../bin/node24', import.meta.url).pathname
const program = new URL('./network-probe.ts', import.meta.url).pathname
/** Where a probe in a sandbox is told what to do. */
const controlPort = 4000

export class ProbeClient {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>()
  #last = 0
  #hasEnded = false

  private constructor (t: Teardown, command: string[]) {
    const [file = '', ...args] = command
    const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#child = child
    t.after(() => this.end())
    child.once('exit', () => {
      this.#hasEnded = true
      for (const { reject } of this.#waiting.values()) reject(new Error('the probe has ended'))
    })
    child.stdin.on('error', () => {})
    createInterface({ input: child.stdout }).on('line', line => {
      const { id, value } = JSON.parse(line) as { id: number, value: unknown }
      this.#waiting.get(id)?.resolve(value)
      this.#waiting.delete(id)
    })
  }

  /** A probe in a network namespace of the host; the machine's own when none is given. */
  static inNamespace (t: Teardown, ns?: string): ProbeClient {
    return new ProbeClient(t, [...enter(ns), node, program])
  }

  /** The probe that a sandbox with `probeEntrypoint` is; reached from the namespace of its host. */
  static inSandbox (t: Teardown, address: string, ns?: string): ProbeClient {
    return new ProbeClient(t, [...enter(ns), node, program, 'dial', address, String(controlPort)])
  }

  async ask<Op extends ProbeOp> (op: Op, ...[options]: undefined extends ProbeOptions<Op> ? [] : [ProbeOptions<Op>]): Promise<ProbeValue<Op>> {
    if (this.#hasEnded) throw new Error('the probe has ended')
    const id = ++this.#last
    const waiting = Promise.withResolvers<unknown>()
    this.#waiting.set(id, waiting)
    this.#child.stdin?.write(`${JSON.stringify({ id, op, options })}\n`)
    return await waiting.promise as ProbeValue<Op>
  }

  async end (): Promise<void> {
    if (this.#hasEnded) return
    const exited = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await exited
  }
}

export const probeEntrypoint: readonly string[] = Object.freeze(['/node', '/network-probe.ts', 'serve', String(controlPort)])

const enter = (ns?: string): string[] => ns === undefined ? [] : ['nsenter', `--net=/run/netns/${ns}`]

/** A directory with Node, the libraries it needs, busybox and the probe: `dir:` and this is an image. */
export function makeProbeImage (t: Teardown): string {
  const root = mkdtempSync(join(tmpdir(), 'berth-probe-'))
  t.after(async () => rmSync(root, { recursive: true, force: true }))
  const copy = (from: string, to: string): void => {
    mkdirSync(dirname(join(root, to)), { recursive: true })
    copyFileSync(from, join(root, to), constants.COPYFILE_FICLONE)
  }
  const binary = execFileSync(node, ['-p', 'process.execPath'], { encoding: 'utf8' }).trim()
  copy(binary, '/node')
  for (const [, path = ''] of execFileSync('ldd', [binary], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)) copy(path, path)
  copy(program, '/network-probe.ts')
  copy('/usr/bin/busybox', '/bin/busybox')
  for (const name of ['sh', 'ip', 'ping', 'cat']) symlinkSync('busybox', join(root, 'bin', name))
  for (const dir of ['etc', 'tmp', 'proc', 'sys', 'dev', 'root']) mkdirSync(join(root, dir), { recursive: true })
  return root
}
