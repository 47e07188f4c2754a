/** What only the kernel knows of a daemon's table: how often it refused, and which addresses it keeps open for whom, how long. */
import type { Nftables } from '../../host/nftables.ts'
import type { NetworkPlan } from './network-plan.ts'
import { denyReasons, structureMark, type Counters } from './ruleset-text.ts'

/** An address that a name stood for, by the address of the sandbox that may reach it. */
export interface KeptOpen {
  source: string
  address: string
  port: number
  /** 0: only connections that run are let through. */
  expiresInMs: number
}

/** Elements as libnftables-json(5) has them. */
interface ListedSet {
  set?: { elem?: Array<{ elem: { val: { concat: [source: string, address: string, port: number] }, expires?: number } }> }
}

interface ListedCounter {
  counter?: { name: string, packets: number, bytes: number }
}

/** Refusals by reason; all 0 where there is no table. */
export async function readDenials (nftables: Pick<Nftables, 'list'>, { table }: NetworkPlan): Promise<Counters> {
  const listed = await nftables.list(`list counters table inet ${table}`).catch(() => []) as ListedCounter[]
  const byName = new Map(listed.flatMap(({ counter }) => counter ? [[counter.name, { packets: counter.packets, bytes: counter.bytes }]] : []))
  return Object.fromEntries(denyReasons.map(({ reason, counter }) => [reason, byName.get(counter) ?? { packets: 0, bytes: 0 }]))
}

/** Whether the kernel has a daemon's table as this version of Berth makes it. */
export async function hasTable (nftables: Pick<Nftables, 'list'>, plan: NetworkPlan): Promise<boolean> {
  return await nftables.list(`list chain inet ${plan.table} ${structureMark(plan)}`).then(() => true, () => false)
}

/** Nothing where there is no table. */
export async function readOpened (nftables: Pick<Nftables, 'list'>, { table }: NetworkPlan): Promise<KeptOpen[]> {
  const list = async (set: string, hasTime: boolean): Promise<KeptOpen[]> => {
    const listed = await nftables.list(`list set inet ${table} ${set}`).catch(() => []) as ListedSet[]
    return listed.flatMap(({ set }) => set?.elem ?? []).map(({ elem: { val: { concat: [source, address, port] }, expires = 0 } }) => ({
      source, address, port, expiresInMs: hasTime ? expires * 1000 : 0,
    }))
  }
  const lists = await Promise.all([list('opened4', true), list('opened6', true), list('held4', false), list('held6', false)])
  return lists.flat()
}
