import { Counter, Gauge, type Registry } from 'prom-client'
import type { NetworkDecision } from '../../schemas/network.ts'

/** What was denied for one reason since the rules were last loaded whole. */
export interface DeniedCount {
  packets: number
  bytes: number
}

export interface NetworkMetricsOptions {
  /** Of the packet filter, by reason. */
  counters: () => Promise<Record<string, DeniedCount>>
  /** How many network slots are in each state. */
  slots: () => Record<string, number>
  /** Told when the counters could not be read; the last known ones are shown then. */
  onError?: (error: unknown) => void
}

export interface NetworkMetrics {
  observeDecision: (decision: Pick<NetworkDecision, 'kind' | 'action' | 'count'>) => void
}

/** Metrics of sandbox networks. None has a label by sandbox: these come and go by the thousand. */
export function createNetworkMetrics (registry: Registry, options: NetworkMetricsOptions): NetworkMetrics {
  const { counters, slots, onError } = options
  let reading: Promise<Record<string, DeniedCount> | undefined> | undefined
  // Both counters are collected at the same time, from one reading.
  const readOnce = () => reading ??= counters().catch(error => void onError?.(error)).finally(() => { reading = undefined })
  for (const unit of ['packets', 'bytes'] as const) {
    // The registry keeps it; it is computed when it is read.
    // eslint-disable-next-line no-new
    new Counter({
      name: `berth_network_denied_${unit}_total`,
      help: `${unit === 'packets' ? 'Packets' : 'Bytes of packets'} of sandboxes that the packet filter denied, by reason`,
      labelNames: ['reason'],
      registers: [registry],
      async collect () {
        const denied = await readOnce()
        if (!denied) return
        this.reset()
        for (const [reason, count] of Object.entries(denied)) this.inc({ reason }, count[unit])
      },
    })
  }
  // eslint-disable-next-line no-new
  new Gauge({
    name: 'berth_network_slots',
    help: 'Network namespaces of sandboxes, by state',
    labelNames: ['state'],
    registers: [registry],
    collect () {
      this.reset()
      for (const [state, count] of Object.entries(slots())) this.set({ state }, count)
    },
  })
  const decisions = new Counter({
    name: 'berth_network_decisions_total',
    help: 'Decisions about names and connections of sandboxes',
    labelNames: ['kind', 'action'],
    registers: [registry],
  })
  return {
    observeDecision: ({ kind, action, count }) => decisions.inc({ kind, action }, count),
  }
}
