/** The load of the kill loop: small stories, each of which says what must be true at its end. */
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import { pick, type Random } from './random.ts'
import type { SandboxCalls } from './sandbox-calls.ts'

const printing = 'i=0; while [ ! -e /workspace/end ]; do echo "out $i"; echo "err $i" >&2; i=$((i+1)); sleep 0.2; done; echo "end $i"; exit 7'
const ignoringTerm = 'trap "" TERM; while :; do sleep 0.2; done'
const obeyingTerm = 'trap "exit 3" TERM; while :; do sleep 0.2; done'

export interface Load {
  calls: SandboxCalls
  random: Random
  /** Print numbered lines from the loop's first moment to its last. */
  printers: Sandbox[]
  /** Print too, and are paused and resumed. */
  sleepers: Sandbox[]
}

type Story = (load: Load) => Promise<void>

export async function startPrinters (calls: SandboxCalls, count: number): Promise<Sandbox[]> {
  return await Promise.all(Array.from({ length: count }, () => calls.create({ entrypoint: ['sh', '-c', printing] })))
}

/** A program's exit code and output outlive any daemon. */
const shortLife: Story = async ({ calls, random }) => {
  const name = calls.nextName('short')
  const exitCode = Math.floor(random() * 100)
  const { id, labels } = await calls.create({ entrypoint: ['sh', '-c', `echo ${name}; exit ${exitCode}`] })
  const { end } = await calls.wait(id)
  calls.ledger.expect(end?.reason === 'exited' && end.exitCode === exitCode, () => `${id} should have exited with ${exitCode}: ${JSON.stringify(end)}`)
  const log = await calls.log(`/sandboxes/${id}/logs`)
  calls.ledger.expect(log === `${name}\n`, () => `the log of ${id} is ${JSON.stringify(log)}`)
  if (random() < 0.8) await calls.remove(labels['op'] ?? '', id)
}

/** Through every verb, with a file that must outlive a stop. */
const longLife: Story = async ({ calls, random }) => {
  const { id, labels } = await calls.create({})
  await calls.execAttached(id, calls.nextName('attached'), 5)
  const execId = await calls.execDetached(id, 10, 6)
  await calls.verb(id, 'pause', 'paused')
  await calls.verb(id, 'resume', 'running')
  await calls.checkExec(id, execId)
  await calls.verb(id, 'stop', 'stopped', { graceMs: 500 })
  if (random() < 0.5) {
    await calls.verb(id, 'start', 'running')
    await calls.execAttached(id, calls.nextName('attached'), 0)
  }
  await calls.remove(labels['op'] ?? '', id)
}

const createdFirst: Story = async ({ calls, random }) => {
  const { id, labels } = await calls.create({ start: false })
  if (random() < 0.7) await calls.verb(id, 'start', 'running')
  if (random() < 0.7) await calls.remove(labels['op'] ?? '', id)
  else await calls.verb(id, 'stop', 'stopped', { force: true })
}

const stopped: Story = async ({ calls, random }) => {
  const { id, labels } = await calls.create({ entrypoint: ['sh', '-c', pick(random, [ignoringTerm, obeyingTerm])] })
  await calls.verb(id, 'stop', 'stopped', { graceMs: Math.floor(random() * 600) })
  const { end } = await calls.get(id)
  calls.ledger.expect(end?.reason === 'requested', () => `${id} was stopped, but says ${JSON.stringify(end)}`)
  await calls.remove(labels['op'] ?? '', id)
}

/** A deadline is kept by whichever daemon is there when it comes, and never early. */
const deadline: Story = async ({ calls, random }) => {
  const timeoutMs = 500 + Math.floor(random() * 2500)
  const { id, startedAt = '', labels } = await calls.create({ timeoutMs, entrypoint: ['sh', '-c', obeyingTerm] })
  const { end } = await calls.wait(id)
  const lasted = Date.parse(end?.at ?? '') - Date.parse(startedAt)
  calls.ledger.expect(end?.reason === 'timed_out' && lasted >= timeoutMs, () => `${id} had ${timeoutMs} ms, but lasted ${lasted} ms: ${JSON.stringify(end)}`)
  calls.ledger.count('deadline kept')
  await calls.remove(labels['op'] ?? '', id)
}

const execInPrinter: Story = async ({ calls, random, printers }) => {
  const { id } = pick(random, printers)
  await calls.execAttached(id, calls.nextName('attached'), Math.floor(random() * 100))
  const execId = await calls.execDetached(id, 5 + Math.floor(random() * 40), Math.floor(random() * 100))
  // The others are checked when all is over.
  if (random() < 0.5) await calls.checkExec(id, execId)
}

/** Each sleeper belongs to one story at a time: it is taken from the list meanwhile. */
const nap: Story = async ({ calls, sleepers }) => {
  const sleeper = sleepers.shift()
  if (!sleeper) return
  try {
    await calls.verb(sleeper.id, 'pause', 'paused')
    await calls.verb(sleeper.id, 'resume', 'running')
  } finally {
    sleepers.push(sleeper)
  }
}

/** Rules that were answered stay, and a published port keeps its number. */
const networked: Story = async ({ calls, random }) => {
  const { id, labels, network } = await calls.create({ network: { egress: { allow: ['example.test'] }, publish: [{ port: 8080 }] } })
  const [published] = network.publish
  for (const allow of [['*.example.test'], ['example.test', 'other.test']]) await calls.setNetwork(id, { egress: { allow }, publish: published ? [published] : [] })
  if (random() < 0.5) await calls.setNetwork(id, { egress: 'none' })
  await calls.remove(labels['op'] ?? '', id)
}

const stories: readonly Story[] = [networked, shortLife, longLife, createdFirst, stopped, deadline, execInPrinter, execInPrinter, nap]

/** Tells stories until it is told to end; one that breaks off is written down, and the next begins. */
export async function tellStories (load: Load, ending: AbortSignal): Promise<void> {
  while (!ending.aborted) {
    const story = pick(load.random, stories)
    await story(load).catch((error: Error) => load.calls.ledger.blame(`a story broke off: ${error.message}`))
  }
}

/** Tells a printer to end, and checks that each of its lines is there exactly once. */
export async function endPrinter (calls: SandboxCalls, printer: Sandbox): Promise<number> {
  const { id } = printer
  await calls.client.send('POST', `/sandboxes/${id}/execs?wait=true`, { body: { argv: ['touch', '/workspace/end'] } })
  const { end } = await calls.wait(id)
  calls.ledger.expect(end?.reason === 'exited' && end.exitCode === 7, () => `the printer ${id} ended otherwise: ${JSON.stringify(end)}`)
  const out = await calls.log(`/sandboxes/${id}/logs?stream=stdout`)
  const err = await calls.log(`/sandboxes/${id}/logs?stream=stderr`)
  const count = Number(/^end (\d+)$/m.exec(out)?.[1] ?? -1)
  const lines = (word: string) => Array.from({ length: Math.max(0, count) }, (_value, index) => `${word} ${index}\n`).join('')
  calls.ledger.expect(out === `${lines('out')}end ${count}\n`, () => `the printer ${id} lost or doubled output: ${firstDifference(out, lines('out'))}`)
  calls.ledger.expect(err === lines('err'), () => `the printer ${id} lost or doubled errors: ${firstDifference(err, lines('err'))}`)
  return count * 2
}

function firstDifference (actual: string, expected: string): string {
  const [have, want] = [actual.split('\n'), expected.split('\n')]
  const index = have.findIndex((line, at) => line !== want[at])
  return `${have.length} lines for ${want.length}; line ${index} is ${JSON.stringify(have[index])}, not ${JSON.stringify(want[index])}`
}
