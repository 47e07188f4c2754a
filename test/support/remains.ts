/** Everything that a daemon's sandboxes hold on a host, as sentences; for assertions that nothing of it is left. */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { tagOf } from '../../src/services/network/network-plan.ts'
import { findLeftovers } from './leftovers.ts'

const run = promisify(execFile)

export interface RemainsOwner {
  dir: string
  stateDir: string
  runDir: string
  hostId: string
  /** Sandboxes that may be there: what is theirs is no remains. */
  except?: readonly string[]
}

/**
 * Mounts, cgroups, processes, rules of networks, runtime state, run directories, and files of sandboxes beside their records.
 * The daemon's own process does not count.
 */
export async function findRemains (owner: RemainsOwner): Promise<string[]> {
  const except = [...owner.except ?? [], ...await Promise.all((owner.except ?? []).map(id => deviceOf(owner.stateDir, id)))]
  const found = await Promise.all([
    findLeftovers(owner).then(lines => lines.filter(line => !isDaemon(line))),
    findRules(owner.hostId),
    findContainers(owner.runDir),
    findFiles(join(owner.runDir, 'sandboxes')).then(names => names.map(name => `run directory ${name}`)),
    findSandboxFiles(join(owner.stateDir, 'sandboxes')),
  ])
  return found.flat().filter(line => !except.some(id => line.includes(id)))
}

/** What a daemon holds by itself: its own process, that of its network server, and networks that no sandbox has yet. */
function isDaemon (line: string): boolean {
  if (/^(netns|link|table|address) /.test(line)) return true
  return line.startsWith('process ') && (line.includes(' --state-dir ') || line.includes('/network-server.ts '))
}

/** Slots of sandboxes that the packet filter has rules for, in whatever set. Without any a network is one that is kept ready. */
async function findRules (hostId: string): Promise<string[]> {
  if (hostId === '') return []
  const tag = tagOf(hostId)
  const { stdout } = await run('nft', ['list', 'table', 'inet', `berth_${tag}`]).catch(() => ({ stdout: '' }))
  // Budgets name devices too, and forget them by themselves.
  const sets = stdout.split(/^\t(?=set|map|chain|counter)/m).filter(text => /^(set|map) /.test(text) && !/^set \w*(budget|connections) /.test(text))
  return [...new Set(sets.join('').match(new RegExp(`bv${tag}[0-9a-f]{4}`, 'g')))].map(device => `rules of ${device}`)
}

async function findContainers (runDir: string): Promise<string[]> {
  const found: string[] = []
  for (const runtime of await findFiles(join(runDir, 'runtimes'))) {
    const root = join(runDir, 'runtimes', runtime)
    const { stdout } = await run(runtime, ['--root', root, 'list', '--quiet'])
    found.push(...stdout.split('\n').filter(Boolean).map(id => `${runtime} container ${id}`))
    // What a runtime that was killed leaves in its root is invisible to its list.
    found.push(...(await findFiles(root)).filter(name => name.includes('sbx_')).map(name => `${runtime} state file ${name}`))
  }
  return found
}

async function findSandboxFiles (sandboxesDir: string): Promise<string[]> {
  const found: string[] = []
  for (const id of await findFiles(sandboxesDir)) {
    const names = await findFiles(join(sandboxesDir, id))
    found.push(...names.filter(name => name !== 'sandbox.json').map(name => `file ${id}/${name}`))
    if (!names.includes('sandbox.json')) found.push(`sandbox directory ${id} without a record`)
  }
  return found
}

async function findFiles (dir: string): Promise<string[]> {
  return await readdir(dir).catch(() => [])
}

/** The host's end of a sandbox's link, by its record. */
async function deviceOf (stateDir: string, id: string): Promise<string> {
  const { heldNetwork } = JSON.parse(await readFile(join(stateDir, 'sandboxes', id, 'sandbox.json'), 'utf8')) as { heldNetwork?: { netnsPath: string } }
  return heldNetwork?.netnsPath.replace(/^.*berth-(.*)-(.*)$/, 'bv$1$2') ?? 'no device'
}
