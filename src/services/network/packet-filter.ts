import type { Logger } from 'pino'
import type { Nftables } from '../../host/nftables.ts'
import { readForwarding } from './forwarding.ts'
import type { NetworkPlan } from './network-plan.ts'
import { RuleQueue } from './rule-queue.ts'
import { hasTable, readDenials, readOpened } from './ruleset-state.ts'
import type { Counters } from './ruleset-text.ts'
import { addSandbox, changeSandbox, fullRules, openAddress, removeSandbox, type OpenedAddress, type RuleChange, type SandboxRules } from './ruleset.ts'

export interface PacketFilterOptions {
  plan: NetworkPlan
  nftables: Nftables
  /** Of the host's API on the gateway; 0 while it is not known. */
  apiPort: number
  /** What is wanted for every sandbox, at the time of the call. */
  rules: () => SandboxRules[]
  logger: Logger
}

/** The daemon's table in the kernel's packet filter. It stays in force when the daemon dies. */
export class PacketFilter {
  readonly #options: PacketFilterOptions
  readonly #queue: RuleQueue
  /** What was ever opened for those who have a slot, by its number: the kernel forgets in time, and deletes only what it is told. */
  readonly #opened = new Map<number, Map<string, OpenedAddress>>()
  #lastCleaning: Promise<void> = Promise.resolve()
  /** Slots of which something is being taken away still. */
  readonly #cleanings = new Map<number, Promise<unknown>>()
  #apiPort: number

  constructor (options: PacketFilterOptions) {
    this.#options = options
    this.#apiPort = options.apiPort
    const { nftables, logger } = options
    this.#queue = new RuleQueue({ nftables, logger, fullRules: () => this.#fullRules(), onReload: () => logger.debug('all rules of the packet filter were loaded') })
  }

  /** Loads all rules in one transaction; connections that they allow go on. */
  async reload (): Promise<void> {
    await this.#queue.reload()
  }

  /** Loads all rules if somebody has removed the table, as the start of another firewall does that begins with `flush ruleset`. */
  async check (): Promise<void> {
    const { nftables, plan, logger } = this.#options
    if (await hasTable(nftables, plan)) return
    logger.error({ table: plan.table }, 'somebody removed the rules of the packet filter; they are loaded again')
    await this.reload()
  }

  /** Lets the sandboxes that may reach it reach the host's API, at this port of the gateway. */
  async exposeApi (port: number): Promise<void> {
    if (this.#apiPort === port) return
    this.#apiPort = port
    await this.reload()
  }

  async add (rules: SandboxRules): Promise<void> {
    await this.#cleanings.get(rules.slot.number)
    await this.#queue.submit(addSandbox(this.#options.plan, rules))
  }

  async change (before: SandboxRules, after: SandboxRules): Promise<void> {
    await this.#cleanings.get(before.slot.number)
    await this.#apply(before.slot.number, changeSandbox(this.#options.plan, before, after, this.#openedFor(before)))
  }

  async remove (rules: SandboxRules): Promise<void> {
    await this.#cleanings.get(rules.slot.number)
    await this.#apply(rules.slot.number, removeSandbox(this.#options.plan, rules, this.#openedFor(rules)))
    this.#opened.delete(rules.slot.number)
  }

  async open (rules: SandboxRules, { addresses, port, ttlMs }: { addresses: readonly string[], port: number, ttlMs: number }): Promise<void> {
    const opened = addresses.map(address => ({ slot: rules.slot, address, port, expiresInMs: ttlMs }))
    for (const one of opened) this.#remember(one)
    // The kernel alone keeps them: it knows how long they are in use.
    await this.#queue.submit(opened.map(one => openAddress(this.#options.plan, one)).join(''), { isInFullRules: false })
  }

  /** What was refused so far, by reason. */
  async denials (): Promise<Counters> {
    return await readDenials(this.#options.nftables, this.#options.plan)
  }

  /** Lets go; the rules stay in force. */
  close (): void {
    this.#queue.close()
  }

  /** Removes the table: nothing is refused any more. No slot may be left. */
  async drop (): Promise<void> {
    this.close()
    const { table } = this.#options.plan
    await this.#options.nftables.run(`add table inet ${table}\ndelete table inet ${table}`)
  }

  /** Resolves when the change is in force. What is left to be taken away lets others go first, and is waited for by the next change of its slot. */
  async #apply (slotNumber: number, { now, later }: RuleChange): Promise<void> {
    if (now !== '') await this.#queue.submit(now)
    if (later.length === 0) return
    const clean = async () => { for (const commands of later) await this.#queue.submit(commands) }
    // One after the other: what is submitted together would go in one long transaction.
    const cleaning = this.#lastCleaning = this.#lastCleaning.then(clean).catch((error: unknown) => {
      this.#options.logger.warn({ err: error }, 'rules that nothing reads are still in the packet filter; the next load of all takes them away')
    }).finally(() => this.#cleanings.delete(slotNumber))
    this.#cleanings.set(slotNumber, cleaning)
  }

  #remember (opened: OpenedAddress): void {
    const { slot: { number }, address, port } = opened
    const known = this.#opened.get(number) ?? new Map<string, OpenedAddress>()
    this.#opened.set(number, known.set(`${address} ${port}`, opened))
  }

  #openedFor ({ slot }: SandboxRules): OpenedAddress[] {
    return [...this.#opened.get(slot.number)?.values() ?? []]
  }

  async #fullRules (): Promise<string> {
    const { plan, nftables, rules } = this.#options
    const [isInPlace, isForwarded, counters, kept] = await Promise.all([hasTable(nftables, plan), readForwarding(), readDenials(nftables, plan), readOpened(nftables, plan)])
    // Only now: whoever waits for this is among them.
    const sandboxes = rules()
    const slots = new Map(sandboxes.flatMap(({ slot }) => [[slot.ipv4, slot], [slot.ipv6, slot]]))
    const opened = kept.flatMap(({ source, ...open }) => {
      const slot = slots.get(source)
      return slot ? [{ slot, ...open }] : []
    })
    for (const one of opened) this.#remember(one)
    return fullRules(plan, { ...(this.#apiPort === 0 ? {} : { apiPort: this.#apiPort }), sandboxes, opened, counters, isForwarded, isInPlace })
  }
}
