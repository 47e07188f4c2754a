/** The table of attempts in docs/network.md, and how tests prove its lines. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import type { TestContext } from 'node:test'
import type { DecisionPage, NetworkDecision } from '../../src/schemas/network.ts'
import { eventually } from './host-surgery.ts'
import type { TestDaemon } from './test-daemon.ts'

/** One line. */
export interface TableRow {
  attempt: string
  /** What the decision about it says; absent where none is made. */
  recorded?: Pick<NetworkDecision, 'kind' | 'action' | 'reason'>
}

/** Whose attempt it was, and what tells its decision from others alike: the name or the address, and the port. */
export interface Evidence extends Partial<Pick<NetworkDecision, 'name' | 'address' | 'port' | 'entry' | 'protocol'>> {
  sandbox: { id: string, daemon: TestDaemon }
}

/** Proves the line of this name; fails where its decision is missing, too. */
export type Prove = (attempt: string, proof: () => Promise<Evidence | void>) => Promise<void>

const path = new URL('../../docs/network.md', import.meta.url)

/** All lines, in order: `| attempt | what happens | kind reason |`. */
export function readNetworkTable (): TableRow[] {
  const [, section = ''] = readFileSync(path, 'utf8').split('\n## What happens when …\n')
  const lines = section.split('\n## ')[0]?.split('\n').filter(line => /^\| (?!What it tries |\*\*)/.test(line)) ?? []
  return lines.map(line => {
    const [attempt = '', , recorded = ''] = line.split('|').slice(1).map(cell => cell.trim())
    const [, action = 'denied', kind, reason] = /^(?:(allowed) )?(dns|http|tls|packet) `(\w+)`$/.exec(recorded) ?? []
    assert.ok(recorded === '' || kind !== undefined, `"${recorded}" is no kind and reason: ${attempt}`)
    return { attempt, ...kind !== undefined && { recorded: { kind, action, reason } as TableRow['recorded'] & object } }
  })
}

/** Each line becomes a subtest of its name. */
export function prover (t: TestContext): Prove {
  const rows = new Map(readNetworkTable().map(row => [row.attempt, row]))
  return async (attempt, proof) => {
    const row = rows.get(attempt)
    assert.ok(row, `docs/network.md has no line "${attempt}"`)
    await t.test(attempt, async () => {
      const evidence = await proof()
      if (!row.recorded) return assert.equal(evidence, undefined, 'the table says that nothing is recorded')
      assert.ok(evidence, 'there is evidence')
      await assertRecorded(evidence, row.recorded)
    })
  }
}

/** The decision is there to be read, and the packet filter's are counted. */
async function assertRecorded ({ sandbox: { id, daemon }, ...facts }: Evidence, recorded: object): Promise<void> {
  const wanted = Object.entries({ ...recorded, ...facts })
  let seen = ''
  await eventually(async () => {
    const { body, text } = await daemon.request<DecisionPage>('GET', `/v1/sandboxes/${id}/network/decisions?limit=1000`)
    seen = text
    return body.items.some(decision => wanted.every(([key, value]) => decision[key as keyof NetworkDecision] === value))
  }, `a decision ${JSON.stringify(Object.fromEntries(wanted))}`, 5_000).catch(error => { throw new Error(`${error.message}; there are ${seen}`) })
  const { kind, reason } = recorded as NetworkDecision
  if (kind !== 'packet') return
  assert.ok(await readDenied(daemon, reason) > 0, `berth_network_denied_packets_total counts ${reason}`)
}

/** Packets that were denied for a reason, as the daemon's metrics say. */
export async function readDenied (daemon: TestDaemon, reason: string): Promise<number> {
  const { text } = await daemon.request('GET', '/metrics')
  return Number(new RegExp(`^berth_network_denied_packets_total\\{reason="${reason}"\\} (\\d+)`, 'm').exec(text)?.[1] ?? NaN)
}
