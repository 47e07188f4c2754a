/** Terminals without a process: a test says what they write, and sees what was sent to them. */
import { BerthError } from '../../../src/errors.ts'
import { randomId } from '../../../src/lib/id.ts'
import type { AttachEvent, Terminal, TerminalCreate } from '../../../src/schemas/terminal.ts'
import type { AttachOptions, TerminalAttachment, Terminals, TerminalViewer } from '../../../src/services/terminals/terminal-types.ts'

/** One that looks. */
export class FakeAttachment implements TerminalAttachment {
  readonly options: AttachOptions
  readonly viewer: TerminalViewer
  readonly written: Buffer[] = []
  readonly sizes: Array<[number, number]> = []
  /** The signal that it runs with; undefined before. */
  signal: AbortSignal | undefined
  /** What write and resize wait for, and fail with. */
  taking: () => Promise<void> = async () => {}
  readonly #begun = Promise.withResolvers<void>()
  readonly #over = Promise.withResolvers<void>()

  constructor (options: AttachOptions, viewer: TerminalViewer) {
    this.options = options
    this.viewer = viewer
  }

  /** Until it runs. */
  get begun (): Promise<void> {
    return this.#begun.promise
  }

  /** Until its run is over. */
  get over (): Promise<void> {
    return this.#over.promise
  }

  async run (signal: AbortSignal): Promise<void> {
    this.signal = signal
    if (signal.aborted) this.#over.resolve()
    signal.addEventListener('abort', () => this.#over.resolve())
    this.#begun.resolve()
    await this.#over.promise
  }

  async write (bytes: Buffer): Promise<void> {
    this.written.push(Buffer.from(bytes))
    await this.taking()
  }

  async resize (cols: number, rows: number): Promise<void> {
    this.sizes.push([cols, rows])
    await this.taking()
  }

  /** The last event, and the end of its run; an error ends it as a fault would. */
  async end (last: AttachEvent | Error = { type: 'exit', reason: 'exited', exitCode: 0 }): Promise<void> {
    if (last instanceof Error) return this.#over.reject(last)
    await this.viewer.sendEvent(last)
    this.#over.resolve()
  }
}

export function makeTerminal (sandboxId: string, input: Partial<TerminalCreate> = {}): Terminal {
  const at = '2026-03-01T09:30:00.000Z'
  const { cols = 80, rows = 24, cwd = '/workspace', user = '1000:1000', env: _, ...others } = input
  return {
    id: randomId('trm'),
    sandboxId,
    status: 'running',
    cols,
    rows,
    cwd,
    user,
    ...others,
    createdAt: at,
    lastActivityAt: at,
    viewers: { write: 0, read: 0 },
    output: { oldestOffset: 0, endOffset: 0 },
  }
}

/** `attachments` has all that looked, in their order. */
export function makeTerminals (note: (name: string, ...args: unknown[]) => void) {
  const known = new Map<string, Terminal>()
  const attachments: FakeAttachment[] = []
  const get = (sandboxId: string, id: string): Terminal => {
    const found = known.get(id)
    if (found?.sandboxId !== sandboxId) throw new BerthError('not_found', 'terminal_not_found', `there is no terminal ${id}`)
    return found
  }
  return {
    attachments,
    create: async (sandboxId, input, options) => {
      note('createTerminal', sandboxId, input, options)
      const made = makeTerminal(sandboxId, input)
      known.set(made.id, made)
      return made
    },
    list: (sandboxId, filter) => {
      note('listTerminals', sandboxId, filter)
      return { items: [...known.values()].filter(terminal => terminal.sandboxId === sandboxId) }
    },
    get,
    update: async (sandboxId, id, update) => {
      note('updateTerminal', sandboxId, id, update)
      const changed = { ...get(sandboxId, id), ...update }
      known.set(id, changed)
      return changed
    },
    remove: async (sandboxId, id) => {
      note('removeTerminal', sandboxId, id)
      get(sandboxId, id)
      known.delete(id)
    },
    attach: (sandboxId, id, options, viewer) => {
      get(sandboxId, id)
      const made = new FakeAttachment(options, viewer)
      attachments.push(made)
      return made
    },
  } satisfies Terminals & { attachments: FakeAttachment[] }
}
