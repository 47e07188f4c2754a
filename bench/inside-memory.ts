/** What terminals that nobody uses cost us. */
import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Terminal } from '../src/schemas/terminal.ts'
import { atMost } from './claims.ts'
import { mustBe } from './contestant.ts'
import { createTerminal, removeTerminal } from './inside-terminals.ts'
import type { InsideBench } from './inside.ts'
import { readProcessMemory } from './machine.ts'
import type { TaskOutcome } from './tasks.ts'

const terminals = 100
/** A sandbox runs no more than 64 at once. */
const perSandbox = 50
const together = 4
/** Until what their start needed is given back, or is not. */
const settlesMs = 5000

export async function measureIdleTerminals (bench: InsideBench): Promise<TaskOutcome> {
  const places = [bench]
  while (places.length * perSandbox < terminals) {
    const { id } = await bench.daemon.create({ resources: { memoryBytes: 2 * 1024 ** 3, pids: 2048 } })
    places.push({ ...bench, sandboxId: id })
  }
  // The first starts what all of them share.
  const warm = await createTerminal(bench, {})
  await removeTerminal(bench, warm)
  await delay(settlesMs)
  const before = await readOurs(bench)
  const made: Terminal[] = []
  for (let next = 0; next < terminals; next += together) {
    bench.signal.throwIfAborted()
    made.push(...await Promise.all(places.flatMap(place => Array.from({ length: together / places.length }, () => createTerminal(place, { cols: 120, rows: 40 })))))
  }
  await delay(settlesMs)
  const after = await readOurs(bench)
  for (const { sandboxId } of places.slice(1)) await bench.daemon.remove(sandboxId)
  const perTerminal = (name: 'daemon' | 'ptyHost') => (after[name] - before[name]) / 1024 / terminals
  return {
    claims: [
      { claim: `memory of ours for each of ${terminals} idle terminals, PSS`, unit: 'MB', ours: [perTerminal('daemon') + perTerminal('ptyHost')], target: atMost(1) },
      { claim: 'of it, the pty-host', unit: 'MB', ours: [perTerminal('ptyHost')] },
    ],
    notes: ['idle terminals are shells of 120 by 40 at their prompt, without viewers; the client of the runtime that each of them has is the runtime\'s'],
  }
}

/** In KiB. */
async function readOurs ({ daemon }: InsideBench): Promise<{ daemon: number, ptyHost: number }> {
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const hosts = (await Promise.all(pids.map(async pid => {
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).split('\0')
    return argv.some(argument => argument.endsWith('/pty-host.ts')) && argv.some(argument => argument.startsWith(`${daemon.runDir}/`)) ? [Number(pid)] : []
  }))).flat()
  mustBe('the number of pty-hosts', hosts.length, 1)
  const [ours, host] = await Promise.all([daemon.pid, hosts[0] ?? 0].map(readProcessMemory))
  return { daemon: ours?.pssKiB ?? NaN, ptyHost: host?.pssKiB ?? NaN }
}
