import type { Terminal, TerminalEnd } from '../schemas/terminal.ts'
import { ownErrorCode } from './sandbox-text.ts'
import { formatTable, shorten } from './table.ts'
import { describeSpan } from './units.ts'

const commandWidth = 32

export function formatTerminals (terminals: Terminal[], now = Date.now()): string {
  return formatTable(['TERMINAL ID', 'NAME', 'COMMAND', 'SIZE', 'CREATED', 'STATUS', 'VIEWERS'], terminals.map(terminal => [
    terminal.id,
    terminal.name === undefined ? '-' : shorten(terminal.name, commandWidth),
    terminal.argv ? JSON.stringify(shorten(terminal.argv.join(' '), commandWidth)) : 'shell',
    `${terminal.cols}x${terminal.rows}`,
    `${describeSpan(now - Date.parse(terminal.createdAt))} ago`,
    describeTerminalStatus(terminal, now),
    describeViewers(terminal),
  ]))
}

function describeTerminalStatus ({ status, end }: Terminal, now: number): string {
  if (!end) return status === 'running' ? 'Running' : status === 'starting' ? 'Starting' : 'Ended'
  return `Ended (${end.reason === 'exited' ? end.exitCode ?? '?' : end.reason}) ${describeSpan(now - Date.parse(end.at))} ago`
}

function describeViewers ({ viewers: { write, read } }: Terminal): string {
  return read === 0 ? String(write) : `${write} + ${read} reading`
}

/** What berth ends with when the terminal that it was attached to has ended. */
export function terminalExitCode ({ exitCode }: Pick<TerminalEnd, 'exitCode'>): number {
  return exitCode ?? ownErrorCode
}

/** Why it ended, where that is more than the program's own exit. */
export function describeTerminalEnd ({ reason }: Pick<TerminalEnd, 'reason'>): string | undefined {
  return reason === 'exited' ? undefined : reasons[reason]
}

const reasons: Record<Exclude<TerminalEnd['reason'], 'exited'>, string> = {
  deleted: 'the terminal was deleted',
  idle: 'the terminal ended after its idle timeout',
  sandbox_ended: 'the terminal ended with its sandbox',
  pty_host_lost: 'the terminal was lost with the process that held it; its program was ended',
  host_restarted: 'the terminal ended with its host',
}
