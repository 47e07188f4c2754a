import { initMountPoint } from '../../host/oci-spec.ts'
import { BerthError } from '../../errors.ts'
import type { ExecManager } from '../execs/exec-manager.ts'
import { parseListeningSockets, type ListeningSocket } from './socket-table.ts'

export interface PortListerOptions {
  execs: Pick<ExecManager, 'run'>
}

// A listening socket is a line of some 150 bytes.
const maxTableBytes = 256 * 1024
const maxSockets = 1000
const deadlineMs = 10_000
// The tables also hold every connection, of which there can be very many; only what listens is wanted. Without IPv6 there is no tcp6.
const argv = [`${initMountPoint}/busybox`, 'grep', '-hs', ' 0A ', '/proc/net/tcp', '/proc/net/tcp6']

/**
 * Says on which TCP ports programs inside a sandbox listen, by a helper of the read-only init mount that reads the sandbox's own
 * socket tables. It is what the sandbox says of itself: to be shown, not to decide by.
 */
export class PortLister {
  readonly #execs: PortListerOptions['execs']
  readonly #underWay = new Map<string, Promise<ListeningSocket[]>>()

  constructor (options: PortListerOptions) {
    this.#execs = options.execs
  }

  /**
   * By port and address, at most 1000. Those who ask at the same time share one look.
   *
   * @throws BerthError not_found; conflict `invalid_state` where it does not run; unavailable `ports_unreadable`; timed_out.
   */
  list (sandboxId: string): Promise<ListeningSocket[]> {
    const begun = this.#underWay.get(sandboxId) ?? this.#look(sandboxId).finally(() => this.#underWay.delete(sandboxId))
    this.#underWay.set(sandboxId, begun)
    return begun
  }

  async #look (sandboxId: string): Promise<ListeningSocket[]> {
    const { exitCode, stdout, timedOut } = await this.#execs.run(sandboxId, { argv, cwd: '/', user: '0:0', timeoutMs: deadlineMs, maxOutputBytes: maxTableBytes })
    if (timedOut) throw new BerthError('timed_out', 'ports_unreadable', 'the sandbox did not say in time what listens inside; try again when it is less busy')
    // 1: nothing listens; 2: one of the tables is missing, what there was has been printed.
    if (![0, 1, 2].includes(exitCode)) throw new BerthError('unavailable', 'ports_unreadable', 'the sandbox could not say what listens inside; it may be out of processes or memory')
    return parseListeningSockets(stdout).slice(0, maxSockets)
  }
}
