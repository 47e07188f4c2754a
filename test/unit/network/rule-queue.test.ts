import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../../../src/errors.ts'
import { pollUntil } from '../../../src/lib/poll.ts'
import { RuleQueue } from '../../../src/services/network/rule-queue.ts'

/** Rules are words: `add a`, `delete a`, and `only a b c` for all of them. */
class FakeFilter {
  readonly rules = new Set<string>()
  readonly transactions: string[] = []
  readonly #fails: (commands: string) => boolean
  isBusy = false

  constructor (fails: (commands: string) => boolean = () => false) {
    this.#fails = fails
  }

  async run (commands: string): Promise<void> {
    assert.equal(this.isBusy, false, 'one transaction at a time')
    this.isBusy = true
    this.transactions.push(commands)
    await nextTurn()
    this.isBusy = false
    if (this.#fails(commands)) throw new Error(`refused: ${commands}`)
    const next = new Set(this.rules)
    for (const line of commands.split('\n')) {
      const [verb, ...words] = line.split(' ').filter(word => word !== '')
      if (verb === 'only') next.clear()
      for (const word of words) {
        if (verb !== 'delete') next.add(word)
        else if (!next.delete(word)) throw new Error(`no such rule: ${word}`)
      }
    }
    this.rules.clear()
    for (const rule of next) this.rules.add(rule)
  }
}

function build (options: { fails?: (commands: string) => boolean, fullRules?: () => Promise<string> | string, onReload?: () => void, retryMs?: number } = {}) {
  const filter = new FakeFilter(options.fails)
  const wanted = new Set<string>()
  const logged: string[] = []
  const logger = { warn: (_fields: unknown, message?: string) => { logged.push(`warn ${message}`) }, error: (_fields: unknown, message?: string) => { logged.push(`error ${message}`) } }
  let reloads = 0
  const queue = new RuleQueue({
    nftables: filter,
    fullRules: options.fullRules ?? (() => `only ${[...wanted].join(' ')}`),
    logger,
    retryMs: options.retryMs,
    onReload: () => { reloads++; options.onReload?.() },
  })
  const add = async (rule: string) => { wanted.add(rule); await queue.submit(`add ${rule}`) }
  return { filter, wanted, queue, add, logged, reloads: () => reloads }
}

const isRefused = (error: unknown): error is BerthError => error instanceof BerthError && error.kind === 'unavailable' && error.code === 'packet_filter_failed'

test('what is submitted while a transaction runs goes together in the next one', async () => {
  const { filter, add } = build()
  const first = add('a')
  await nextTurn()
  assert.equal(filter.isBusy, true)
  await Promise.all([first, add('b'), add('c'), add('d')])
  assert.deepEqual(filter.transactions, ['add a', 'add b\nadd c\nadd d'])
})

test('what is submitted in the same breath is one transaction', async () => {
  const { filter, add } = build()
  await Promise.all([add('a'), add('b')])
  assert.deepEqual(filter.transactions, ['add a\nadd b'])
})

test('a batch that fails is tried one by one, and one that fails alone has all rules replaced, once', async () => {
  const { filter, wanted, queue, add, reloads, logged } = build()
  filter.rules.add('stays')
  wanted.add('stays')
  await Promise.all([add('a'), queue.submit('delete missing'), add('b')])
  assert.deepEqual(filter.transactions, ['add a\ndelete missing\nadd b', 'add a', 'delete missing', 'only stays a b'])
  assert.deepEqual([...filter.rules], ['stays', 'a', 'b'])
  assert.equal(reloads(), 1)
  assert.deepEqual(logged, ['warn a change of the packet filter failed; all its rules are replaced'])
})

test('a change alone that fails is not tried twice before all rules are replaced', async () => {
  const { filter, queue } = build()
  await queue.submit('delete missing')
  assert.deepEqual(filter.transactions, ['delete missing', 'only '])
})

test('a change is refused only when replacing all rules fails too, and no other is lost with it', async () => {
  const { filter, wanted, add, logged } = build({ fails: commands => commands.includes('poison') })
  const results = await Promise.allSettled([add('a'), add('poison').catch((error: unknown) => { wanted.delete('poison'); throw error }), add('b')])
  assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled'])
  const { reason } = results[1] as PromiseRejectedResult
  assert.ok(isRefused(reason))
  assert.ok(reason.cause instanceof AggregateError)
  assert.deepEqual(reason.cause.errors.map((error: Error) => error.message), ['refused: add poison', 'refused: only a poison b'])
  assert.deepEqual([...filter.rules], ['a', 'b'])
  assert.equal(logged.length, 2)
  await add('c')
  assert.deepEqual([...filter.rules], ['a', 'b', 'c'])
})

test('two changes that fail are two replacements: the second may succeed when the first was taken back', async () => {
  const { filter, wanted, add, reloads } = build({ fails: commands => commands.includes('poison') || commands === 'add shy' })
  const [poison, shy] = await Promise.allSettled([add('poison').catch((error: unknown) => { wanted.delete('poison'); throw error }), add('shy')])
  assert.deepEqual([poison.status, shy.status], ['rejected', 'fulfilled'])
  assert.deepEqual(filter.transactions, ['add poison\nadd shy', 'add poison', 'only poison shy', 'add shy', 'only shy'])
  assert.equal(reloads(), 1)
})

test('after a refusal all rules are replaced, by whatever comes next or by itself, until that succeeds', async () => {
  let isBroken = true
  const { filter, wanted, queue, add } = build({ retryMs: 1, fails: () => isBroken })
  await assert.rejects(add('a').catch((error: unknown) => { wanted.delete('a'); throw error }), isRefused)
  filter.rules.add('a')
  assert.ok(await pollUntil(async () => filter.transactions.length > 4, 10_000))
  isBroken = false
  assert.ok(await pollUntil(async () => filter.rules.size === 0, 10_000), 'by itself')
  isBroken = true
  await assert.rejects(queue.reload(), isRefused)
  isBroken = false
  filter.transactions.length = 0
  await add('b')
  assert.deepEqual(filter.transactions, ['only b'], 'by what comes next')
})

test('a closed queue no longer tries what it owes', async () => {
  const { filter, queue } = build({ retryMs: 1, fails: () => true })
  await assert.rejects(queue.reload(), isRefused)
  queue.close()
  const before = filter.transactions.length
  await delay(20)
  assert.equal(filter.transactions.length, before)
})

test('replacing all rules settles what waits; what is submitted later is a transaction of its own', async () => {
  const { filter, queue, add, reloads } = build()
  const first = add('a')
  await nextTurn()
  const others = [queue.reload(), add('b'), queue.reload()]
  await first
  await nextTurn()
  const late = add('c')
  await Promise.all([...others, late])
  assert.deepEqual(filter.transactions, ['add a', 'only a b', 'add c'])
  assert.equal(reloads(), 1)
})

test('a change that full rules do not contain is made after they were loaded', async () => {
  const { filter, queue, add } = build()
  await Promise.all([queue.reload(), queue.submit('add extra', { isInFullRules: false }), add('a')])
  assert.deepEqual(filter.transactions, ['only a', 'add extra'])
  filter.transactions.length = 0
  const first = queue.submit('delete missing')
  await nextTurn()
  await Promise.all([first, queue.submit('add more', { isInFullRules: false })])
  assert.deepEqual(filter.transactions, ['delete missing', 'only a', 'add more'])
})

test('a change that full rules do not contain is made again when it failed, and refused when it fails again', async () => {
  const { filter, queue } = build({ fails: commands => commands === 'add extra' && filter.transactions.length < 3 })
  await queue.submit('add extra', { isInFullRules: false })
  assert.deepEqual(filter.transactions, ['add extra', 'only ', 'add extra'])
  await assert.rejects(queue.submit('delete missing', { isInFullRules: false }), isRefused)
  assert.deepEqual(filter.transactions.slice(3), ['delete missing', 'only ', 'delete missing'])
})

test('a replacement that cannot be had refuses who asked for it; the changes that wait are made all the same', async () => {
  const { filter, queue, add } = build({ fullRules: () => { throw new Error('no rules') } })
  const [change, reload] = await Promise.allSettled([add('a'), queue.reload()])
  assert.equal(change.status, 'fulfilled')
  assert.ok(reload.status === 'rejected' && isRefused(reload.reason))
  assert.equal((reload.reason.cause as Error).message, 'no rules')
  assert.deepEqual([...filter.rules], ['a'])
})

test('a listener that throws does no harm', async () => {
  const { queue, add, filter } = build({ onReload: () => { throw new Error('listener') } })
  await queue.reload()
  await add('a')
  assert.deepEqual([...filter.rules], ['a'])
})

test('whatever fails in whatever order, every change is settled and the filter has what is wanted', async () => {
  for (let seed = 1; seed <= 200; seed++) await fuzz(seed)
})

/** Owners add and delete a rule of their own, several at a time, while transactions fail at random, for a while all of them. */
async function fuzz (seed: number): Promise<void> {
  const random = makeRandom(seed)
  const pauses = async () => { for (let turns = Math.floor(random() * 4); turns > 0; turns--) await nextTurn() }
  const failureRate = random()
  let outage = 0
  const wanted = new Set<string>()
  const { queue, filter } = build({
    retryMs: 1,
    fails (commands) {
      if (outage === 0 && random() < 0.02) outage = 5
      if (outage > 0) { outage--; return true }
      return commands.includes('bad') || random() < failureRate * (commands.startsWith('only') ? 0.4 : 1)
    },
    async fullRules () {
      await pauses()
      if (random() < 0.1) throw new Error('no rules')
      const rules = `only ${[...wanted].join(' ')}`
      await pauses()
      return rules
    },
  })
  let settled = 0
  const own = async (rule: string) => {
    for (let step = 0; step < 6; step++) {
      await pauses()
      const isAdding = !wanted.has(rule)
      const change = (isThere: boolean) => isThere ? wanted.add(rule) : wanted.delete(rule)
      change(isAdding)
      try {
        await queue.submit(`${isAdding ? 'add' : 'delete'} ${rule}`)
        assert.equal(filter.rules.has(rule), isAdding, `seed ${seed}: ${rule} is in force when its change resolves`)
      } catch (error) {
        if (!isRefused(error)) throw error
        change(!isAdding)
      }
      settled++
    }
  }
  const others = async (name: string) => {
    for (let step = 0; step < 6; step++) {
      await pauses()
      try {
        await queue.submit(`add ${name}${step}`, { isInFullRules: false })
        assert.ok(filter.rules.has(`${name}${step}`), `seed ${seed}: ${name}${step} is in force when its change resolves`)
      } catch (error) {
        if (!isRefused(error)) throw error
      }
      settled++
    }
  }
  const reloads = async () => { for (let step = 0; step < 3; step++) { await pauses(); await queue.reload().catch((error: unknown) => { if (!isRefused(error)) throw error }) } }
  await Promise.all([...Array.from({ length: 8 }, (_, index) => own(index === 0 ? 'bad' : `rule${index}`)), others('extra'), others('more'), reloads()])
  assert.equal(settled, 60)
  const isAsWanted = async () => [...filter.rules].filter(rule => !/^(extra|more)/.test(rule)).sort().join() === [...wanted].sort().join() && !filter.isBusy
  assert.ok(await pollUntil(isAsWanted, 10_000), `seed ${seed}: at the end the filter has what is wanted, and nothing else`)
  queue.close()
}

/** mulberry32 */
function makeRandom (seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6D2B79F5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
