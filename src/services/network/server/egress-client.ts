/** A connection of a sandbox to the proxy, and what it leads to at the moment. */
import type { Socket } from 'node:net'
import type { Destination } from '../../../host/original-destination.ts'
import type { EgressPolicy, PolicyDecision } from '../egress-policy.ts'
import type { EgressRouter, EgressTarget } from './egress-route.ts'
import type { Decision, ServerPolicy } from './network-protocol.ts'
import { cut, type Dial } from './socket-pair.ts'

/** One connection or request under way that the policy has allowed. */
export interface EgressUse {
  readonly target: EgressTarget
  /** Where it goes; absent before it is connected. */
  address?: string
  upstream?: Socket
}

export interface EgressClientOptions {
  socket: Socket
  sandboxId: string
  /** Where its packets were sent to. */
  original: Destination | undefined
  /** The policy of whoever has its source address. */
  policyOf: () => ServerPolicy | undefined
  router: EgressRouter
  dial: Dial
  record: (decision: Decision) => void
}

export class EgressClient {
  readonly socket: Socket
  readonly sandboxId: string
  readonly original: Destination | undefined
  readonly router: EgressRouter
  readonly dial: Dial
  readonly #policyOf: () => ServerPolicy | undefined
  readonly #record: (decision: Decision) => void
  readonly #uses = new Set<EgressUse>()
  /** Closes connections that are kept for later requests. */
  dropIdle: () => void = () => {}

  constructor ({ socket, sandboxId, original, policyOf, router, dial, record }: EgressClientOptions) {
    this.socket = socket
    this.sandboxId = sandboxId
    this.original = original
    this.router = router
    this.dial = dial
    this.#policyOf = policyOf
    this.#record = record
    socket.on('error', () => {})
    socket.once('close', () => {
      this.dropIdle()
      if (!socket.readableEnded || !socket.writableFinished) this.#cutUses()
    })
  }

  /** The egress of its sandbox; undefined when it has no business here any more. */
  policy = (): EgressPolicy | undefined => {
    const policy = this.#policyOf()
    return policy?.sandboxId === this.sandboxId && policy.egress.isProxied ? policy.egress : undefined
  }

  /** Notes what the connection is used for, so that a change of the policy finds it. */
  begin (target: EgressTarget): EgressUse {
    const use: EgressUse = { target }
    this.#uses.add(use)
    return use
  }

  end (use: EgressUse): void {
    this.#uses.delete(use)
  }

  /** Judges everything under way again; what may not go on is cut, with the whole connection. */
  policyChanged (): void {
    this.dropIdle()
    if (this.policy() === undefined || [...this.#uses].some(use => !this.mayGoOn(use))) this.cut()
  }

  /** Whether the policy of this moment allows it, too. */
  mayGoOn ({ target, address }: EgressUse): boolean {
    const policy = this.policy()
    return policy !== undefined && this.router.mayGoOn(policy, target, address)
  }

  /** Ends everything at once, both ways, with a reset. */
  cut = (): void => {
    cut(this.socket)
    this.#cutUses()
  }

  record ({ kind, name, port, original }: EgressTarget, { action, reason, entry }: PolicyDecision, address = original?.address): void {
    this.#record({
      sandboxId: this.sandboxId,
      kind,
      action,
      reason,
      ...name !== undefined && { name },
      ...entry !== undefined && { entry },
      protocol: 'tcp',
      ...address !== undefined && { address },
      port,
    })
  }

  #cutUses (): void {
    for (const { upstream } of this.#uses) if (upstream !== undefined) cut(upstream)
    this.#uses.clear()
  }
}
