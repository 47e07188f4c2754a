import { Option, type Command } from 'commander'
import { BerthError } from '../errors.ts'
import type { Terminal, TerminalCreate } from '../schemas/terminal.ts'
import { isKind } from './client.ts'
import { defaultDetachKeys, parseDetachKeys } from './detach-keys.ts'
import { RawTerminal } from './raw-terminal.ts'
import { codeOfError } from './sandbox-text.ts'
import type { Shell } from './shell.ts'
import { runTerminalSession, type SessionEnd, type TerminalSessionOptions } from './terminal-session.ts'
import { describeTerminalEnd, terminalExitCode } from './terminal-text.ts'
import { parseDuration } from './units.ts'

/** Options of all that attaches, as typed. */
export interface AttachFlags {
  detachKeys: string
  reconnectTimeout: string
}

export function addAttachOptions (command: Command): Command {
  return command
    .option('--detach-keys <KEYS>', 'keys that leave it running', defaultDetachKeys)
    .addOption(new Option('--reconnect-timeout <DURATION>', 'how long to wait for a lost connection').default('60s'))
}

/** @throws BerthError invalid_argument `usage`. */
export function parseAttachFlags ({ detachKeys, reconnectTimeout }: AttachFlags): Pick<TerminalSessionOptions, 'detachKeys' | 'reconnectMs'> {
  return { detachKeys: parseDetachKeys(detachKeys), reconnectMs: parseDuration(reconnectTimeout, '--reconnect-timeout') }
}

/** @throws BerthError invalid_argument `usage` where standard input is no terminal. */
export function checkTerminal ({ context }: Shell): void {
  if (!context.isTty.stdin) throw new BerthError('invalid_argument', 'usage', '-t: standard input is not a terminal; run it from one, or leave -t out (-i alone passes standard input)')
}

/** Opens a terminal, of the size of the one here where there is one. */
export async function createTerminal (shell: Shell, sandboxId: string, input: Partial<TerminalCreate>, signal?: AbortSignal): Promise<Terminal> {
  using here = new RawTerminal(shell.context)
  return await shell.client().request<Terminal>('POST', `/v1/sandboxes/${sandboxId}/terminals`, { body: { ...here.size, ...input }, signal })
}

export async function deleteTerminal (shell: Shell, { sandboxId, id }: Pick<Terminal, 'sandboxId' | 'id'>): Promise<void> {
  await shell.client().request('DELETE', `/v1/sandboxes/${sandboxId}/terminals/${id}`).catch(error => { if (!isKind(error, 'not_found')) throw error })
}

export interface TerminalRun extends Pick<TerminalSessionOptions, 'takesInput' | 'detachKeys' | 'reconnectMs'> {
  sandboxId: string
  input: Partial<TerminalCreate>
}

/** A program at a terminal of its own, from its first byte to its end, or until the person leaves it; what has ended is deleted. */
export async function runAtTerminal (shell: Shell, { sandboxId, input, ...how }: TerminalRun): Promise<{ exitCode: number, isDetached: boolean }> {
  let terminal: Terminal
  try {
    terminal = await createTerminal(shell, sandboxId, input)
  } catch (error) {
    const exitCode = error instanceof BerthError ? codeOfError[error.code] : undefined
    if (exitCode === undefined) throw error
    await shell.output.note((error as BerthError).message)
    return { exitCode, isDetached: false }
  }
  const end = await runTerminalSession(shell, { sandboxId, terminalId: terminal.id, role: 'write', since: 0, ...how }).catch(async error => {
    await tellHowToComeBack(shell, terminal).catch(() => {})
    throw error
  })
  if (end.type !== 'detached') await deleteTerminal(shell, terminal)
  return { exitCode: await tellEnd(shell, terminal, end), isDetached: end.type === 'detached' }
}

/** Says how the session ended where that is not plain to see. Answers the exit code. */
export async function tellEnd (shell: Shell, terminal: Pick<Terminal, 'sandboxId' | 'id'>, end: SessionEnd): Promise<number> {
  if (end.type === 'detached') {
    await tellHowToComeBack(shell, terminal)
    return 0
  }
  const reason = describeTerminalEnd(end)
  if (reason) await shell.output.note(reason)
  return terminalExitCode(end)
}

async function tellHowToComeBack ({ output }: Shell, { sandboxId, id }: Pick<Terminal, 'sandboxId' | 'id'>): Promise<void> {
  // The cursor is where the program left it.
  if (output.isTty.stderr) await output.err('\n')
  await output.note(`the terminal goes on; come back with: berth attach ${sandboxId} ${id}`)
}
