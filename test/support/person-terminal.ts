/** A person's terminal: a shell at a pseudo-terminal of this host, into which commands are typed. */
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { spawn, type IPty } from 'node-pty'
import { berth, type Teardown } from './test-daemon.ts'

const waitsMs = 30_000

export class PersonTerminal {
  readonly #pty: IPty
  readonly #dir: string
  readonly #ended: Promise<unknown>
  /** Everything that it has shown. */
  shown = ''
  #seen = 0
  #marks = 0

  private constructor (pty: IPty, dir: string) {
    this.#pty = pty
    this.#dir = dir
    pty.onData(data => { this.shown += data })
    this.#ended = new Promise(resolve => { pty.onExit(resolve) })
  }

  /** `berth` is on its PATH. */
  static async open (t: Teardown, env: Record<string, string>): Promise<PersonTerminal> {
    const dir = await mkdtemp(join(tmpdir(), 'berth-person-'))
    const pty = spawn('/bin/sh', [], { cols: 90, rows: 30, cwd: dir, env: { ...env, PATH: `${join(berth, '..')}:${env['PATH'] ?? ''}`, PS1: '$ ', TERM: 'xterm-256color' } })
    const terminal = new PersonTerminal(pty, dir)
    t.after(async () => {
      try { process.kill(pty.pid, 'SIGKILL') } catch {}
      await terminal.#ended
      await rm(dir, { recursive: true, force: true })
    })
    await terminal.sees('$ ')
    return terminal
  }

  type (keys: string): void {
    this.#pty.write(keys)
  }

  /** Types keys again and again until it shows the text: a program may not be there yet. */
  async typeUntil (keys: string, wanted: string): Promise<void> {
    for (const until = Date.now() + waitsMs; !this.shown.slice(this.#seen).includes(wanted);) {
      assert.ok(Date.now() < until, `${wanted} is shown`)
      this.type(keys)
      await delay(200)
    }
    await this.sees(wanted)
  }

  resize (cols: number, rows: number): void {
    this.#pty.resize(cols, rows)
  }

  /** Waits until it shows the text, behind what was waited for before. */
  async sees (wanted: string | RegExp): Promise<string> {
    const until = Date.now() + waitsMs
    for (;;) {
      const rest = this.shown.slice(this.#seen)
      const found = typeof wanted === 'string' ? { index: rest.indexOf(wanted), 0: wanted } : wanted.exec(rest) ?? { index: -1, 0: '' }
      if (found.index !== -1) {
        this.#seen += found.index + found[0].length
        return found[0]
      }
      assert.ok(Date.now() < until, `${String(wanted)} is not shown in ${JSON.stringify(rest)}`)
      await delay(10)
    }
  }

  /** Types a command to the shell here, and begins it. Its end is waited for by the function that it answers, which tells its exit code. */
  begin (command: string): () => Promise<number> {
    const mark = `done-${++this.#marks}`
    // The mark as typed is another text than the mark as printed.
    this.type(`${command}; echo "${mark.slice(0, 4)}""${mark.slice(4)}=$?"\r`)
    return async () => Number((await this.sees(new RegExp(`${mark}=(\\d+)`))).split('=')[1])
  }

  /** How the terminal is set, as `stty -a` says. */
  async settings (): Promise<string> {
    const file = join(this.#dir, `settings-${this.#marks + 1}`)
    await this.begin(`stty -a > ${file}`)()
    return await readFile(file, 'utf8')
  }

  /** The process of the shell's command in the foreground. */
  async foreground (): Promise<number> {
    for (const until = Date.now() + waitsMs; ;) {
      const fields = (await readFile(`/proc/${this.#pty.pid}/stat`, 'latin1')).split(') ')[1]!.split(' ')
      if (Number(fields[5]) !== this.#pty.pid) return Number(fields[5])
      assert.ok(Date.now() < until, 'something runs in the foreground')
      await delay(10)
    }
  }
}
