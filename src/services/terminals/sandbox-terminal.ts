import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Mutex } from 'async-mutex'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { ExecPlaces } from '../../host/oci-runtime.ts'
import type { OciProcess } from '../../host/oci-spec.ts'
import { removeTrees } from '../../host/remove.ts'
import { pollUntil } from '../../lib/poll.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { Terminal, TerminalEndReason, TerminalRole, TerminalStatus } from '../../schemas/terminal.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import { ptyHostUnavailable } from './pty-host-client.ts'
import type { PtyHosts } from './pty-host-supervisor.ts'
import { inputWindowBytes, type PtyEnd, type PtyStatus, type Screen } from './server/pty-protocol.ts'
import { ViewerAttachment, type ViewedTerminal } from './terminal-attachment.ts'
import { classifyTerminalEnd, killSession, mayBeSandboxEnd } from './terminal-ending.ts'
import { TerminalInput } from './terminal-input.ts'
import { TerminalOutput } from './terminal-output.ts'
import { toTerminal, writeTerminalRecord, type TerminalRecord } from './terminal-record.ts'
import { TerminalSize } from './terminal-size.ts'
import type { AttachOptions, TerminalAttachment, TerminalViewer } from './terminal-types.ts'

export type SandboxOfTerminals = Pick<SandboxLifecycle, 'record' | 'status' | 'hasEnded' | 'runtime' | 'clock' | 'watch'>

export interface TerminalParts {
  sandbox: SandboxOfTerminals
  places: ExecPlaces
  hosts: PtyHosts
  logger: Logger
  /** It has ended, and its record says so. */
  onEnded: (terminal: SandboxTerminal) => void
}

/** How a program came to its end at the pty-host; empty where that died first. */
interface Ending { end?: PtyEnd }

const maxViewers = 256
const hangUpGraceMs = 2000
const killDeadlineMs = 5000
const sandboxEndDeadlineMs = 1000
const lastWordsMs = 1000

/**
 * One terminal: its record, its program at the pty-host, and those who look at it.
 *
 * A viewer counts as activity of the sandbox: one that somebody looks at is not stopped for being idle. A program alone does not, and input cannot
 * come without a viewer.
 */
export class SandboxTerminal {
  readonly #record: TerminalRecord
  readonly #parts: TerminalParts
  readonly #output: TerminalOutput
  readonly #input: TerminalInput
  readonly #size: TerminalSize
  readonly #saving = new Mutex()
  readonly #viewers = { write: 0, read: 0 }
  readonly #ending = Promise.withResolvers<Ending>()
  readonly #settled = Promise.withResolvers<void>()
  #activityAt = Date.now()
  #removing: Promise<void> | undefined
  #endingInside: Promise<void> | undefined
  #isSettling = false
  #isRemoved = false
  #unwatch: () => void = () => {}

  constructor (record: TerminalRecord, parts: TerminalParts) {
    const { hosts, places } = parts
    const { id } = record
    this.#record = record
    this.#parts = parts
    this.#output = new TerminalOutput(places.dir, {
      subscribe: async () => record.end ? 0 : (await hosts.request(id, { op: 'subscribe' }) as { offset: number }).offset,
      unsubscribe: async () => { if (!record.end) await hosts.request(id, { op: 'unsubscribe' }) },
      onError: error => this.#warn(error, 'the output of a terminal cannot be had for now'),
    })
    this.#input = new TerminalInput({ windowBytes: inputWindowBytes, send: bytes => hosts.input(id, bytes) })
    this.#size = new TerminalSize(record, async size => { await hosts.request(id, { op: 'resize', ...size }) })
    if (record.end) {
      this.#output.settle()
      this.#close()
    } else this.#listen()
  }

  get id (): string { return this.#record.id }
  get sandboxId (): string { return this.#record.sandboxId }
  get createdAt (): string { return this.#record.createdAt }
  get status (): TerminalStatus { return this.#record.status }
  get idempotencyKey (): string | undefined { return this.#record.idempotencyKey }
  get hasEnded (): boolean { return this.#record.status === 'ended' }
  get endedAt (): string { return this.#record.end?.at ?? '' }
  get isDeleting (): boolean { return this.#record.isDeleting ?? false }

  toWire (): Terminal {
    const { oldestOffset, endOffset, writtenAt } = this.#output.extent()
    const lastActivityAt = new Date(Math.max(this.#activityAt, writtenAt)).toISOString()
    return toTerminal(this.#record, { lastActivityAt, viewers: { ...this.#viewers }, output: { oldestOffset, endOffset } })
  }

  /** Starts the program. When this throws, nothing of it is left. */
  async start (process: OciProcess, windowBytes: number): Promise<void> {
    const { places, hosts, sandbox } = this.#parts
    const { id, cols, rows } = this.#record
    await Promise.all([places.dir, places.runDir].map(dir => mkdir(dir, { recursive: true, mode: 0o700 })))
    await this.#save()
    try {
      const argv = await sandbox.runtime.terminalArgv(places, process, { cols, rows })
      await hosts.create(id, { argv, dir: places.dir, cols, rows, windowBytes })
      await sandbox.runtime.terminalStarted(places, this.#ending.promise.then(({ end }) => {
        if (!end) throw ptyHostUnavailable()
        return end.exitCode ?? 128 + (end.signalNumber ?? 0)
      }))
      if (this.#record.status === 'starting') this.#record.status = 'running'
      await this.#save()
    } catch (error) {
      await this.discard()
      throw error
    }
    this.#run()
  }

  /** Ends whatever there may be of one that was never answered, and removes it. */
  async discard (): Promise<void> {
    const { hosts, places, sandbox } = this.#parts
    this.#isRemoved = true
    if (!sandbox.hasEnded) await killSession(sandbox.runtime, places)
    await hosts.discard(this.id)
    const { dir, runDir } = this.#parts.places
    await removeTrees([dir, runDir])
  }

  /** Takes over what another daemon left; one that was being removed is to be removed again. `status`: what the pty-host knows of it. */
  async adopt (status: PtyStatus | undefined, facts: { hasHostRestarted: boolean }): Promise<void> {
    if (this.isDeleting) {
      // The removal is begun again; where nobody holds the terminal any more, no end will be heard.
      if (!status) this.#ending.resolve({})
      return
    }
    if (this.hasEnded) return status && await this.#parts.hosts.forget(this.id)
    const end = status?.end ?? await this.#output.reader.end()
    if (!status || end) return await this.#settle(end ? { end } : {}, facts)
    this.#size.adopt(status)
    if (this.#parts.sandbox.hasEnded) await this.sandboxEnded()
    else {
      this.#run()
      if (this.#record.ending) void this.#endInside()
    }
  }

  attach (options: AttachOptions, viewer: TerminalViewer): TerminalAttachment {
    const { since, role } = options
    if (this.#viewers.write + this.#viewers.read >= maxViewers) {
      throw new BerthError('exhausted', 'too_many_viewers', `at most ${maxViewers} look at a terminal at once; wait for one to leave`)
    }
    if (since !== undefined && since > this.#output.extent().endOffset) {
      throw new BerthError('invalid_argument', 'invalid_offset', 'since lies behind all that the terminal has written; leave it out to see the present', { details: { field: 'since' } })
    }
    this.#viewers[role]++
    this.#touch()
    const endActivity = this.#parts.sandbox.clock.beginActivity()
    return new ViewerAttachment(this.#viewedAs(role, () => {
      this.#viewers[role]--
      this.#touch()
      endActivity()
    }), options, viewer)
  }

  async resize (cols: number, rows: number): Promise<void> {
    if (this.hasEnded) throw ended()
    const resized = this.#size.set({ cols, rows })
    this.#output.feed.changed.notify()
    await resized
  }

  async rename (name: string): Promise<void> {
    this.#record.name = name
    await this.#save()
  }

  /** Ends it if it has been idle for too long. A sandbox that is paused lets nobody do anything. */
  async sweep (now: number): Promise<void> {
    const { idleTimeoutMs, status, ending } = this.#record
    if (idleTimeoutMs === undefined || status !== 'running' || ending) return
    if (this.#parts.sandbox.status === 'paused' || this.#viewers.write + this.#viewers.read > 0) this.#touch(now)
    const activityAt = Math.max(this.#activityAt, this.#output.extent().writtenAt)
    if (now - activityAt >= idleTimeoutMs) await this.#endFor('idle')
  }

  /** The sandbox has ended: the end of the client comes within a moment, or is not waited for. */
  async sandboxEnded (): Promise<void> {
    if (this.hasEnded || this.#record.status === 'starting') return
    await this.#awaitEnd(hangUpGraceMs)
    await this.#killClient()
    await this.#awaitEnd(killDeadlineMs)
    await this.#settle({})
  }

  /** Ends it if it runs, and removes it with all that it wrote. Begun again, it waits for what is under way. */
  remove (): Promise<void> {
    this.#removing ??= this.#remove()
    return this.#removing
  }

  /** Its sandbox is gone with all its files. */
  forget (): void {
    this.#record.end ??= { reason: 'sandbox_ended', at: new Date().toISOString() }
    this.#record.status = 'ended'
    void this.#parts.hosts.discard(this.id)
    this.#markRemoved()
  }

  /** Lets go of it; its program goes on. */
  close (): void {
    this.#unwatch()
  }

  async #remove (): Promise<void> {
    const { hosts } = this.#parts
    this.#record.isDeleting = true
    await this.#endFor('deleted')
    // Who keeps up sees the last words.
    await pollUntil(async () => this.#viewers.write + this.#viewers.read === 0, lastWordsMs)
    this.#markRemoved()
    await hosts.forget(this.id)
    const { dir, runDir } = this.#parts.places
    await removeTrees([dir, runDir])
  }

  #markRemoved (): void {
    this.#isRemoved = true
    this.#close()
    this.#output.forget()
  }

  async #endFor (reason: TerminalEndReason): Promise<void> {
    if (!this.hasEnded) this.#record.ending ??= reason
    await this.#save()
    if (!this.hasEnded) await (this.#endingInside ??= this.#endInside())
  }

  /** SIGHUP as when a line is dropped; SIGKILL for who does not mind. */
  async #endInside (): Promise<void> {
    const { sandbox, places } = this.#parts
    if (!sandbox.hasEnded) await this.#signal('HUP')
    await this.#awaitEnd(hangUpGraceMs)
    if (!this.hasEnded) {
      if (!sandbox.hasEnded) await killSession(sandbox.runtime, places)
      await this.#killClient()
      await this.#awaitEnd(killDeadlineMs)
    }
    // It may be one that nobody can be asked about.
    await this.#settle({})
  }

  #run (): void {
    void this.#ending.promise.then(ending => this.#settle(ending)).catch(error => this.#warn(error, 'the end of a terminal could not be settled'))
    let isHungUp = false
    // Shells at a terminal take no SIGTERM: without this the stop of their sandbox would take all its grace.
    this.#unwatch = this.#parts.sandbox.watch(() => {
      if (this.#parts.sandbox.status !== 'stopping' || isHungUp) return
      isHungUp = true
      void this.#signal('HUP')
    })
  }

  #listen (): void {
    this.#parts.hosts.listen(this.id, {
      onOutput: (offset, bytes) => {
        this.#touch()
        this.#output.feed.onOutput(offset, bytes)
      },
      onAdvanced: offset => this.#output.feed.onAdvanced(offset),
      onTaken: bytes => this.#input.taken(bytes),
      onEnded: end => this.#ending.resolve({ end }),
      onReconnected: status => {
        this.#input.break(ptyHostUnavailable())
        if (!status) return this.#ending.resolve({})
        this.#output.feed.renew()
        if (status.end) this.#ending.resolve({ end: status.end })
      },
      onLost: () => {
        void this.#output.reader.end().catch(() => undefined).then(end => this.#ending.resolve(end ? { end } : {}))
      },
    })
  }

  /** Once: says how it ended, in the record first. Resolves when that is done, whoever does it. */
  #settle (ending: Ending, facts = { hasHostRestarted: false }): Promise<void> {
    if (!this.#isSettling) {
      this.#isSettling = true
      this.#settleOnce(ending, facts).then(this.#settled.resolve, this.#settled.reject)
    }
    return this.#settled.promise
  }

  async #settleOnce ({ end }: Ending, { hasHostRestarted }: { hasHostRestarted: boolean }): Promise<void> {
    const { sandbox, hosts, places } = this.#parts
    const isEnding = () => sandbox.hasEnded || sandbox.status === 'stopping'
    if (!this.#record.ending && (!end || mayBeSandboxEnd(end)) && !isEnding()) await pollUntil(async () => isEnding(), sandboxEndDeadlineMs)
    // Nobody holds the terminal of a program that may still run.
    if (!sandbox.hasEnded && (!end || end.signalNumber)) await killSession(sandbox.runtime, places)
    const { ending } = this.#record
    const how = classifyTerminalEnd({ at: new Date().toISOString(), end, ending, hasHostRestarted, hasSandboxEnded: isEnding() })
    this.#output.settle(end)
    Object.assign(this.#record, { status: 'ended', end: how })
    // Whoever can see that it has ended is refused input.
    this.#close()
    await this.#save()
    await hosts.forget(this.id)
    await rm(places.runDir, { recursive: true, force: true })
    this.#output.feed.changed.notify()
    this.#parts.onEnded(this)
  }

  #close (): void {
    this.#unwatch()
    this.#input.close(ended())
  }

  #viewedAs (role: TerminalRole, onLeave: () => void): ViewedTerminal {
    const terminal = this
    return {
      changed: this.#output.feed.changed,
      reader: this.#output.reader,
      get status () { return terminal.status },
      get size () { return terminal.#size.wanted },
      get endOffset () { return terminal.#output.endOffset },
      get end () { return terminal.#record.end },
      get isRemoved () { return terminal.#isRemoved },
      read: (from, into) => this.#output.feed.read(from, into),
      screen: async () => await this.#parts.hosts.request(this.id, { op: 'screen' }) as Screen,
      keptScreen: () => this.#output.keptScreen(),
      join: () => this.#output.feed.join(),
      leave: () => {
        this.#output.feed.leave()
        onLeave()
      },
      write: async bytes => {
        assertWriter(role)
        this.#touch()
        await this.#input.write(bytes)
      },
      resize: async (cols, rows) => {
        assertWriter(role)
        await this.resize(cols, rows)
      },
    }
  }

  async #signal (signal: string): Promise<void> {
    const { sandbox, places } = this.#parts
    await sandbox.runtime.signalExec(places, signal, { isWaiting: false }).catch(error => this.#warn(error, 'the program of a terminal could not be signalled'))
  }

  /** The runtime's client, which may mind nothing else. */
  async #killClient (): Promise<void> {
    await this.#parts.hosts.request(this.id, { op: 'hangUp', force: true }).catch(() => { /* gone, or never there */ })
  }

  /** Until it has ended, and that is settled if it ran; at most so long. */
  async #awaitEnd (timeoutMs: number): Promise<void> {
    await raceWithDelay(timeoutMs, [this.#ending.promise.then(ending => this.#settle(ending))])
  }

  #touch (now = Date.now()): void {
    this.#activityAt = Math.max(this.#activityAt, now)
  }

  #save (): Promise<void> {
    return this.#saving.runExclusive(() => writeTerminalRecord(recordPath(this.#parts.places), this.#record))
  }

  #warn (error: unknown, message: string): void {
    this.#parts.logger.warn({ sandboxId: this.#record.sandboxId, terminalId: this.id, err: error }, message)
  }
}

/** Where the record of a terminal lies. */
export function recordPath (places: ExecPlaces): string {
  return join(places.dir, 'terminal.json')
}

function ended (): BerthError {
  return new BerthError('conflict', 'terminal_ended', 'the terminal has ended; it can be looked at, and another one made')
}

function assertWriter (role: TerminalRole): void {
  if (role === 'read') throw new BerthError('permission_denied', 'read_only', 'this viewer only looks; attach with role write to type')
}
