/**
 * Chains of other programs (Docker, ufw, firewalld) that drop what a host passes on. What Berth's own rules accept they drop all the
 * same: a packet goes through every table, and one that drops is enough.
 */
import { readFile } from 'node:fs/promises'
import { runCommand } from './command.ts'
import { Nftables } from './nftables.ts'

export interface ForwardObstacle {
  /** As `ip filter FORWARD`: family, table and chain. */
  chain: string
  /** What lets the links of sandboxes pass. */
  commands: string[]
}

/** What libnftables-json(5) says of a chain and of a rule. */
interface ListedChain { family: string, table: string, name: string, hook?: string, policy?: string }
interface ListedRule { expr: Array<{ match?: { left?: { meta?: { key?: string } }, right?: unknown } }> }
interface Listed { chain?: ListedChain, rule?: ListedRule }

/** All links of all daemons: a host has more than one, and its rules are written once. */
const links = { nft: 'bv*', iptables: 'bv+' }
const directions = [{ key: 'iifname', option: '-i' }, { key: 'oifname', option: '-o' }] as const
// Docker makes it for its users, asks it first and leaves it alone.
const userChain = 'DOCKER-USER'

/**
 * The chains that drop by policy what sandboxes send and get, and have no rule for their links.
 *
 * @throws BerthError unavailable `nftables_missing`; NftablesError.
 */
export async function listForwardObstacles (): Promise<ForwardObstacle[]> {
  const nftables = Nftables.open()
  try {
    const chains = await listChains(nftables)
    const dropping = chains.filter(({ hook, policy }) => hook === 'forward' && policy === 'drop')
    const found: ForwardObstacle[] = []
    for (const chain of dropping) {
      const user = chains.find(({ family, table, name }) => family === chain.family && table === chain.table && name === userChain)
      const rules = [...await listRules(nftables, chain), ...user ? await listRules(nftables, user) : []]
      if (directions.every(({ key }) => rules.some(rule => isAbout(rule, key)))) continue
      found.push({ chain: `${chain.family} ${chain.table} ${chain.name}`, commands: commandsFor(chain, user?.name) })
    }
    return [...found, ...await listLegacyObstacles()]
  } finally {
    nftables.close()
  }
}

async function listChains (nftables: Nftables): Promise<ListedChain[]> {
  return (await nftables.list('list chains') as Listed[]).flatMap(({ chain }) => chain ?? [])
}

async function listRules (nftables: Nftables, { family, table, name }: ListedChain): Promise<ListedRule[]> {
  return (await nftables.list(`list chain ${family} ${table} ${name}`) as Listed[]).flatMap(({ rule }) => rule ?? [])
}

function isAbout ({ expr }: ListedRule, key: string): boolean {
  return expr.some(({ match }) => match?.left?.meta?.key === key && match.right === links.nft)
}

/** iptables keeps its tables in nftables, and is to be changed by itself; the tables of others by nft. */
function commandsFor ({ family, table, name }: ListedChain, user: string | undefined): string[] {
  if (table === 'filter' && name === 'FORWARD' && (family === 'ip' || family === 'ip6')) return iptablesCommands(family === 'ip' ? 'iptables' : 'ip6tables', user ?? name)
  return directions.map(({ key }) => `nft insert rule ${family} ${table} ${name} ${key} '"${links.nft}"' accept`)
}

function iptablesCommands (program: string, chain: string): string[] {
  return directions.map(({ option }) => `${program} -I ${chain} ${option} ${links.iptables} -j ACCEPT`)
}

/** Tables of the iptables before nftables, on hosts that have it in use. */
async function listLegacyObstacles (): Promise<ForwardObstacle[]> {
  const found: ForwardObstacle[] = []
  for (const [path, family, program] of [['/proc/net/ip_tables_names', 'ip', 'iptables-legacy'], ['/proc/net/ip6_tables_names', 'ip6', 'ip6tables-legacy']] as const) {
    // Asked without it being so, iptables makes the table.
    const tables = await readFile(path, 'latin1').catch(() => '')
    if (!tables.split('\n').includes('filter')) continue
    const { exitCode, stdout } = await runCommand(program, ['-S'])
    const lines = stdout.split('\n')
    const isLetThrough = directions.every(({ option }) => lines.some(line => line.includes(` ${option} ${links.iptables} `)))
    if (exitCode !== 0 || !lines.includes('-P FORWARD DROP') || isLetThrough) continue
    const user = lines.includes(`-N ${userChain}`) ? userChain : 'FORWARD'
    found.push({ chain: `${family} filter FORWARD of ${program}`, commands: iptablesCommands(program, user) })
  }
  return found
}
