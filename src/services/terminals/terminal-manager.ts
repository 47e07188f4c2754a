import { readdir } from 'node:fs/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { removeTrees } from '../../host/remove.ts'
import { getOrMake } from '../../lib/get-or-make.ts'
import { randomId } from '../../lib/id.ts'
import { newestFirst } from '../../lib/newest-first.ts'
import type { EventType } from '../../schemas/event.ts'
import type { Terminal, TerminalCreate, TerminalPage, TerminalStatus, TerminalUpdate } from '../../schemas/terminal.ts'
import { prepareExec, type ExecPreparationParts } from '../execs/exec-preparation.ts'
import { fileProgramPath } from '../files/file-protocol.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import type { PtyHosts } from './pty-host-supervisor.ts'
import type { PtyStatus } from './server/pty-protocol.ts'
import { recordPath, SandboxTerminal, type SandboxOfTerminals } from './sandbox-terminal.ts'
import { readTerminalRecord, type TerminalRecord } from './terminal-record.ts'
import type { AttachOptions, TerminalAttachment, Terminals, TerminalViewer } from './terminal-types.ts'

export interface TerminalManagerOptions extends ExecPreparationParts {
  places: HostPlaces
  sandboxes: Pick<SandboxManager, 'get' | 'lifecycle' | 'all'>
  hosts: PtyHosts
  events: { append: (event: { type: EventType, sandboxId: string, terminalId: string, data: Record<string, unknown> }) => unknown }
  /** How much output of each is kept at least, in bytes. */
  windowBytes: number
  logger: Logger
}

const maxRunning = 64
const maxEnded = 32
const defaultSize = { cols: 80, rows: 24 }

/** The terminals of all sandboxes. Their programs live at a pty-host, and outlive the daemon. */
export class TerminalManager implements Terminals {
  readonly #options: TerminalManagerOptions
  readonly #terminals = new Map<string, Map<string, SandboxTerminal>>()

  constructor (options: TerminalManagerOptions) {
    this.#options = options
  }

  /** Takes over what an earlier daemon left, and ends what nobody knows. Sandboxes are adopted before. */
  async adopt (facts: { hasHostRestarted: boolean }): Promise<void> {
    const { sandboxes, hosts, logger } = this.#options
    await hosts.adopt()
    const found: SandboxTerminal[] = []
    for (const sandbox of sandboxes.all().filter(({ record }) => !record.deletedAt)) {
      await this.#read(sandbox, found).catch((error: unknown) => {
        logger.error({ sandboxId: sandbox.record.id, err: error }, 'the terminals of a sandbox could not be read')
      })
    }
    // Each listens already: an end that comes behind this is heard.
    const statuses = await hosts.list()
    await Promise.all(found.map(terminal => this.#adoptOne(terminal, statuses.get(terminal.id), facts)))
    const known = new Set(found.map(({ id }) => id))
    for (const id of statuses.keys()) {
      if (known.has(id)) continue
      logger.warn({ terminalId: id }, 'a terminal that belongs to nobody is ended')
      void hosts.discard(id)
    }
  }

  async create (sandboxId: string, input: TerminalCreate, { idempotencyKey }: { idempotencyKey?: string | undefined }): Promise<Terminal> {
    // Asked for again because a daemon died before it had answered: it runs already.
    const known = idempotencyKey === undefined ? undefined : this.#of(sandboxId).find(terminal => terminal.idempotencyKey === idempotencyKey)
    if (known) return known.toWire()
    const { argv, name, idleTimeoutMs, cols = defaultSize.cols, rows = defaultSize.rows } = input
    const env = { TERM: 'xterm-256color', COLORTERM: 'truecolor', ...input.env }
    const { sandbox, process } = await prepareExec(this.#options, sandboxId, { ...input, argv: argv ?? [fileProgramPath, 'shell'], env })
    if (this.#of(sandboxId).filter(({ hasEnded }) => !hasEnded).length >= maxRunning) {
      throw new BerthError('exhausted', 'too_many_terminals', `at most ${maxRunning} terminals of a sandbox run at once; delete one`)
    }
    const record: TerminalRecord = {
      version: 1,
      id: randomId('trm'),
      sandboxId,
      status: 'starting',
      ...(name === undefined ? {} : { name }),
      ...(argv ? { argv } : {}),
      cwd: process.cwd,
      user: input.user ?? sandbox.record.process?.user ?? '',
      cols,
      rows,
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
      createdAt: new Date().toISOString(),
      ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
    }
    const terminal = this.#make(record, sandbox)
    this.#remember(sandboxId, terminal)
    try {
      await terminal.start(process, this.#options.windowBytes)
    } catch (error) {
      this.#terminals.get(sandboxId)?.delete(terminal.id)
      throw error
    }
    this.#options.events.append({ type: 'terminal.started', sandboxId, terminalId: terminal.id, data: argv ? { argv: argv.slice(0, 1) } : {} })
    return terminal.toWire()
  }

  list (sandboxId: string, filter: { limit?: number | undefined, cursor?: string | undefined, status?: readonly TerminalStatus[] | undefined }): TerminalPage {
    this.#options.sandboxes.get(sandboxId)
    const { status } = filter
    const page = newestFirst(this.#of(sandboxId).filter(terminal => !status || status.length === 0 || status.includes(terminal.status)), filter)
    return { ...page, items: page.items.map(terminal => terminal.toWire()) }
  }

  get (sandboxId: string, terminalId: string): Terminal {
    return this.#find(sandboxId, terminalId).toWire()
  }

  async update (sandboxId: string, terminalId: string, { cols, rows, name }: TerminalUpdate): Promise<Terminal> {
    const terminal = this.#find(sandboxId, terminalId)
    if (cols !== undefined && rows !== undefined) await terminal.resize(cols, rows)
    if (name !== undefined) await terminal.rename(name)
    return terminal.toWire()
  }

  async remove (sandboxId: string, terminalId: string): Promise<void> {
    await this.#remove(sandboxId, this.#find(sandboxId, terminalId))
  }

  attach (sandboxId: string, terminalId: string, options: AttachOptions, viewer: TerminalViewer): TerminalAttachment {
    return this.#find(sandboxId, terminalId).attach(options, viewer)
  }

  /** Ends those that have been idle for too long. */
  async sweep (now: number): Promise<void> {
    await this.#options.hosts.sweep()
    for (const terminals of this.#terminals.values()) {
      for (const terminal of terminals.values()) {
        // An end takes its grace; others do not wait for it.
        void terminal.sweep(now).catch(error => this.#failed(terminal, error))
      }
    }
  }

  /** Settles the terminals of a sandbox that has ended. */
  async onSandboxEnded (sandboxId: string): Promise<void> {
    await Promise.all(this.#of(sandboxId).map(terminal => terminal.sandboxEnded().catch(error => this.#failed(terminal, error))))
  }

  /** The sandbox is gone, and its terminals with all their files. */
  forget (sandboxId: string): void {
    for (const terminal of this.#of(sandboxId)) terminal.forget()
    this.#terminals.delete(sandboxId)
  }

  /** Lets go of all: their programs go on. */
  async close (): Promise<void> {
    for (const terminals of this.#terminals.values()) for (const terminal of terminals.values()) terminal.close()
    await this.#options.hosts.close()
  }

  /** Ends every pty-host of this daemon's directories. The sandboxes are gone before. */
  async endAll (): Promise<void> {
    await this.#options.hosts.end()
  }

  async #read (sandbox: SandboxOfTerminals, found: SandboxTerminal[]): Promise<void> {
    const { places } = this.#options
    const { id } = sandbox.record
    for (const terminalId of await readdir(places.sandbox(id).terminalsDir).catch(() => [])) {
      const terminalPlaces = places.terminal(id, terminalId)
      const record = await readTerminalRecord(recordPath(terminalPlaces))
      // Its directory was made, and nothing else.
      if (record?.id !== terminalId) await removeTrees([terminalPlaces.dir, terminalPlaces.runDir])
      else {
        const terminal = this.#make(record, sandbox)
        this.#remember(id, terminal)
        found.push(terminal)
      }
    }
  }

  async #adoptOne (terminal: SandboxTerminal, status: PtyStatus | undefined, facts: { hasHostRestarted: boolean }): Promise<void> {
    try {
      if (terminal.status === 'starting') {
        // Nobody was told of it.
        await terminal.discard()
        this.#terminals.get(terminal.sandboxId)?.delete(terminal.id)
        return
      }
      await terminal.adopt(status, facts)
      if (terminal.isDeleting) void this.#remove(terminal.sandboxId, terminal).catch(error => this.#failed(terminal, error))
    } catch (error) {
      this.#failed(terminal, error)
    }
  }

  async #remove (sandboxId: string, terminal: SandboxTerminal): Promise<void> {
    await terminal.remove()
    this.#terminals.get(sandboxId)?.delete(terminal.id)
  }

  #make (record: TerminalRecord, sandbox: SandboxOfTerminals): SandboxTerminal {
    const { places, hosts, logger, events } = this.#options
    const { id, sandboxId } = record
    return new SandboxTerminal(record, {
      sandbox,
      places: places.terminal(sandboxId, id),
      hosts,
      logger,
      onEnded: terminal => {
        const { end } = terminal.toWire()
        events.append({ type: 'terminal.ended', sandboxId, terminalId: id, data: { reason: end?.reason, ...(end?.exitCode === undefined ? {} : { exitCode: end.exitCode }) } })
        this.#prune(sandboxId)
      },
    })
  }

  /** Of those that have ended the latest are kept. */
  #prune (sandboxId: string): void {
    const ended = this.#of(sandboxId).filter(({ hasEnded, isDeleting }) => hasEnded && !isDeleting).sort((a, b) => a.endedAt < b.endedAt ? 1 : -1)
    for (const terminal of ended.slice(maxEnded)) void this.#remove(sandboxId, terminal).catch(error => this.#failed(terminal, error))
  }

  #of (sandboxId: string): SandboxTerminal[] {
    return [...this.#terminals.get(sandboxId)?.values() ?? []]
  }

  #find (sandboxId: string, terminalId: string): SandboxTerminal {
    this.#options.sandboxes.get(sandboxId)
    const terminal = this.#terminals.get(sandboxId)?.get(terminalId)
    if (!terminal) throw new BerthError('not_found', 'terminal_not_found', 'the sandbox has no terminal with this id; GET …/terminals lists those there are')
    return terminal
  }

  #remember (sandboxId: string, terminal: SandboxTerminal): void {
    getOrMake(this.#terminals, sandboxId, () => new Map<string, SandboxTerminal>()).set(terminal.id, terminal)
  }

  #failed (terminal: SandboxTerminal, error: unknown): void {
    this.#options.logger.error({ sandboxId: terminal.sandboxId, terminalId: terminal.id, err: error }, 'something about a terminal went wrong')
  }
}
