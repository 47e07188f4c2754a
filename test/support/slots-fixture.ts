/** Scenarios with real slots, each as a process of its own in a network namespace that stands for a host: argv is a name and options as JSON; answers in JSON. */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { promisify } from 'node:util'
import pino from 'pino'
import { BerthError } from '../../src/errors.ts'
import { listForwardObstacles } from '../../src/host/forward-chains.ts'
import { listLinks, readTraffic, runIpBatch } from '../../src/host/ip-batch.ts'
import { readSysctl } from '../../src/host/sysctl.ts'
import { limitBandwidth } from '../../src/host/traffic-control.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { configureForwarding, readForwarding } from '../../src/services/network/forwarding.ts'
import { claimNetwork, releaseClaim } from '../../src/services/network/network-claim.ts'
import { planNetwork, type NetworkPlan, type NetworkSlot } from '../../src/services/network/network-plan.ts'
import { SlotBuilder } from '../../src/services/network/slot-builder.ts'
import { SlotPool } from '../../src/services/network/slot-pool.ts'

interface Options {
  hostId: string
  hostIds: string[]
  pool4: string
  pool6: string
  size: number
  count: number
}

const run = promisify(execFile)
const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }
const logger = pino({ level: 'silent' })

/** Whether a program in the slot reaches an address. */
async function canReach ({ netns }: NetworkSlot, address: string): Promise<boolean> {
  return await run('ip', ['netns', 'exec', netns, 'busybox', 'ping', '-c1', '-W2', address]).then(() => true, () => false)
}

async function countReaching (slots: NetworkSlot[], address: string): Promise<number> {
  let count = 0
  for (const slot of slots) if (await canReach(slot, address)) count++
  return count
}

async function withSlots<T> (hostId: string, work: (parts: { plan: NetworkPlan, builder: SlotBuilder, hasIpv6: boolean }) => Promise<T>): Promise<T & { left: number[] }> {
  const { plan, hasIpv6 } = await claimNetwork({ hostId, ...pools })
  const builder = new SlotBuilder({ plan, hasIpv6 })
  const answer = await work({ plan, builder, hasIpv6 })
  await builder.destroy((await builder.find()).map(number => plan.slot(number)))
  await pollUntil(async () => (await builder.find()).length === 0, 5000)
  const left = await builder.find()
  await releaseClaim(plan, pools)
  return { ...answer, left }
}

/** Bits a second of the bucket at each end: upload, download. */
async function readLimits ({ netns, device }: NetworkSlot): Promise<number[]> {
  const ends = [['-n', netns, '-j', 'qdisc', 'show', 'dev', 'eth0'], ['-j', 'qdisc', 'show', 'dev', device]]
  return await Promise.all(ends.map(async args => {
    const shown = JSON.parse((await run('tc', args)).stdout) as Array<{ kind: string, options: { rate: number } }>
    return (shown.find(({ kind }) => kind === 'tbf')?.options.rate ?? 0) * 8
  }))
}

const scenarios: Record<string, (options: Options) => Promise<object>> = {
  async acquire ({ hostId, size, count }) {
    return await withSlots(hostId, async ({ plan, builder }) => {
      const pool = new SlotPool({ plan, builder, size, logger })
      pool.open(new Set())
      const slots = await Promise.all(Array.from({ length: count }, () => pool.acquire()))
      const different = new Set(slots.flatMap(({ netns, ipv4 }) => [netns, ipv4])).size / 2
      const [reached4, reached6] = [await countReaching(slots, plan.gateway4), await countReaching(slots, plan.gateway6)]
      const traffic = await readTraffic(slots[0]?.device ?? '')
      await Promise.all(slots.map(slot => pool.release(slot)))
      await pool.close()
      return { different, reached4, reached6, hasCounted: (traffic?.sentBytes ?? 0) > 0 && (traffic?.receivedBytes ?? 0) > 0, counts: pool.counts() }
    })
  },

  async debris ({ hostId }) {
    return await withSlots(hostId, async ({ plan, builder }) => {
      const slots = [2, 3, 4, 5, 6].map(number => plan.slot(number))
      const [noLink, noInside, noNamespace, whole] = slots as [NetworkSlot, NetworkSlot, NetworkSlot, NetworkSlot]
      await runIpBatch([
        `netns add ${noLink.netns}`,
        `netns add ${noInside.netns}`,
        `link add name ${noInside.device} group ${plan.group} type veth peer name eth0 netns ${noInside.netns}`,
        `link add name ${noNamespace.device} group ${plan.group} type veth peer name other`,
      ])
      await builder.build([whole])
      const found = await builder.find()
      await builder.build(slots)
      const reaching = []
      for (const slot of slots) if (await canReach(slot, plan.gateway4) && await canReach(slot, plan.gateway6)) reaching.push(slot.number)
      return { found, whole: reaching }
    })
  },

  async readdress ({ hostId }) {
    const { left: _, ...answer } = await withSlots(hostId, async ({ plan, builder }) => {
      const slot = plan.slot(2)
      const reachesBoth = async () => await canReach(slot, plan.gateway4) && await canReach(slot, plan.gateway6)
      await builder.build([slot])
      const before = await reachesBoth()
      await runIpBatch([`addr del ${slot.ipv4}/32 dev eth0`, `addr del ${slot.ipv6}/128 dev eth0`], { netns: slot.netns })
      const without = await reachesBoth()
      await builder.readdress(slot)
      const after = await reachesBoth()
      await builder.readdress(slot)
      const { stdout } = await run('ip', ['-n', slot.netns, '-o', '-4', 'address', 'show', 'dev', 'eth0'])
      return { before, without, after, again: await reachesBoth(), isOneAddress: stdout.trim().split('\n').length === 1 }
    })
    return answer
  },

  async inhabited ({ hostId }) {
    return await withSlots(hostId, async ({ plan, builder }) => {
      const slot = plan.slot(2)
      await builder.build([slot])
      const inhabitant = spawn('ip', ['netns', 'exec', slot.netns, 'sh', '-c', 'echo here; exec sleep 60'], { stdio: ['ignore', 'pipe', 'inherit'] })
      await once(inhabitant.stdout, 'data')
      await builder.destroy([slot])
      const lingering = await builder.find()
      await builder.destroy([slot])
      const links = await listLinks(plan.group)
      inhabitant.kill('SIGKILL')
      await once(inhabitant, 'exit')
      if (links.length > 0) throw new Error('the link is still there')
      return { lingering }
    })
  },

  /** Makes and gives up slots until it is killed. */
  async churn ({ hostId }) {
    const { plan, hasIpv6 } = await claimNetwork({ hostId, ...pools })
    const pool = new SlotPool({ plan, builder: new SlotBuilder({ plan, hasIpv6 }), size: 8, logger })
    pool.open(new Set())
    for (;;) {
      const slots = await Promise.all(Array.from({ length: 6 }, () => pool.acquire()))
      console.log(plan.block4)
      // Not waited for: the kill may come in the middle of it, and of the refill.
      void pool.release(slots[0] as NetworkSlot)
    }
  },

  async reclaim ({ hostId }) {
    return await withSlots(hostId, async ({ plan, builder }) => ({ block4: plan.block4, foundSome: (await builder.find()).length > 0 }))
  },

  async claims ({ hostIds, pool4, pool6 }) {
    const outcomes = await Promise.allSettled(hostIds.map(hostId => claimNetwork({ hostId, pool4, pool6 })))
    const plans = outcomes.flatMap(outcome => outcome.status === 'fulfilled' ? [outcome.value.plan] : [])
    const refused = outcomes.flatMap(outcome => outcome.status === 'rejected' ? [outcome.reason instanceof BerthError ? outcome.reason.code : String(outcome.reason)] : [])
    const [holder, stranger] = [0, 1].map(wanted => hostIds[outcomes.findIndex(({ status }) => status === (wanted === 0 ? 'fulfilled' : 'rejected'))] ?? '')
    const again = await claimNetwork({ hostId: holder ?? '', pool4, pool6 })
    const isKept = plans.some(({ tag, block4 }) => tag === again.plan.tag && block4 === again.plan.block4)
    await releaseClaim(again.plan, { pool4, pool6 })
    const next = await claimNetwork({ hostId: stranger ?? '', pool4, pool6 })
    for (const plan of [...plans, next.plan]) await releaseClaim(plan, { pool4, pool6 })
    return { blocks: new Set(plans.map(({ block4 }) => block4)).size, refused, isKept, isFreed: next.plan.block4 === again.plan.block4 }
  },

  /** Two blocks of one daemon: what it claimed, and what its predecessor had asked for and the kernel did late. */
  async claimTwice ({ hostId, pool4, pool6 }) {
    const { plan } = await claimNetwork({ hostId, pool4, pool6 })
    const blockIndex = [0, 1].find(index => planNetwork({ tag: plan.tag, pool4, pool6, blockIndex: index }).block4 !== plan.block4) ?? 0
    const late = planNetwork({ tag: plan.tag, pool4, pool6, blockIndex })
    await run('ip', ['addr', 'add', `${late.gateway4}/32`, 'dev', 'lo', 'label', `lo:${plan.tag}`])
    await run('ip', ['addr', 'add', `${late.gateway6}/128`, 'dev', 'lo', 'nodad'])
    await releaseClaim(plan, { pool4, pool6 })
    return {}
  },

  async bandwidth ({ hostId }) {
    const { left: _, ...answer } = await withSlots(hostId, async ({ plan, builder }) => {
      const slot = plan.slot(2)
      await builder.build([slot])
      const limit = async (uploadBitsPerSecond?: number, downloadBitsPerSecond?: number) => {
        await limitBandwidth({ ...slot, uploadBitsPerSecond, downloadBitsPerSecond })
        return await readLimits(slot)
      }
      const limited = await limit(64_000, 100_000_000_000)
      const before = await readTraffic(slot.device)
      // 64 packets of 1000 bytes in no time: the bucket lets pass 16 KiB, the rest waits or is lost.
      // To a port that nobody has.
      await run('ip', ['netns', 'exec', slot.netns, 'bash', '-c', `for i in {1..64}; do printf %1000s x >/dev/udp/${plan.gateway4}/9; done; true`])
      const sent = ((await readTraffic(slot.device))?.sentBytes ?? 0) - (before?.sentBytes ?? 0)
      return { limited, isSlow: sent > 0 && sent < 40_000, changed: await limit(undefined, 5_000_000), freed: await limit(), freedAgain: await limit() }
    })
    return answer
  },

  async forwarding () {
    // What a namespace begins with depends on the machine.
    for (const device of ['all', 'default', 'uplink']) await run('sh', ['-c', `echo 0 >/proc/sys/net/ipv6/conf/${device}/forwarding`])
    await run('sh', ['-c', 'echo 0 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/uplink/accept_ra'])
    const before = await readForwarding()
    const changes = await configureForwarding()
    return { before, changes, after: await readForwarding(), acceptRa: await readSysctl('net/ipv6/conf/uplink/accept_ra'), changesAgain: await configureForwarding() }
  },

  async obstacles () {
    return { obstacles: await listForwardObstacles() }
  },
}

const [name = '', options = '{}'] = process.argv.slice(2)
const scenario = scenarios[name]
if (!scenario) throw new Error(`there is no scenario "${name}"`)
console.log(JSON.stringify(await scenario(JSON.parse(options) as Options)))
