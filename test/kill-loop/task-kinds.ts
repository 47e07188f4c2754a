/** The kinds of tasks that the kill loop pushes: of each what is asked for, and what must be so when it has ended. */
import { randomBytes } from 'node:crypto'
import type { Task, TaskCreate, TaskEnd } from '../../src/schemas/task.ts'
import { countedAttempts, endedAs, plainLog, type TaskLog } from './task-verdicts.ts'
import { pick, type Random } from './random.ts'
import type { TaskCalls } from './task-calls.ts'
import { secretOf } from './webhook-receiver.ts'

/** What the loop has around its tasks. */
export interface TaskWorld {
  random: Random
  calls: TaskCalls
  /** Where the daemon puts files of outputs. */
  outputDir: string
  /** A destination of webhooks. */
  webhookUrl: string
}

export interface PlannedTask {
  create: Partial<TaskCreate>
  /** What is wrong with it, as sentences; asked once it has ended. */
  check: (task: Task, log: TaskLog) => string[] | Promise<string[]>
  /** What is done to it once it is pushed. */
  meanwhile?: (id: string) => Promise<void>
}

export interface TaskKind {
  /** How many of a hundred tasks are of this kind, about. */
  share: number
  make: (world: TaskWorld, name: string) => PlannedTask
}

const MiB = 1024 ** 2
const hourMs = 3_600_000

const sh = (program: string) => ['sh', '-c', program]
const between = (random: Random, least: number, most: number) => least + Math.floor(random() * (most - least + 1))
const numbered = (count: number, word: string) => Buffer.from(Array.from({ length: count }, (_value, index) => `${word} ${index}\n`).join(''))

/** Ends with 0 and has said just this. */
function plain (entrypoint: string[], said: { stdout?: Buffer | string, stderr?: Buffer | string }, create: Partial<TaskCreate> = {}): PlannedTask {
  return {
    create: { ...create, entrypoint },
    check: (task, log) => [...endedAs(task, { status: 'complete', reason: 'exited', exitCode: 0, attempts: 1 }), ...plainLog(log, said)],
  }
}

function failing (entrypoint: string[], said: { stdout?: string }, end: Partial<TaskEnd>, create: Partial<TaskCreate> = {}): PlannedTask {
  const attempts = create.maxAttempts ?? 1
  return {
    create: { ...create, entrypoint },
    check: (task, log) => [
      ...endedAs(task, { status: 'failed', reason: end.reason ?? 'exited', exitCode: end.exitCode, signal: end.signal, attempts, isDeadLetter: attempts > 1 }),
      ...plainLog(log, { stdout: (said.stdout ?? '').repeat(attempts) }),
    ],
  }
}

const signals = { KILL: 9, TERM: 15, SEGV: 11, ABRT: 6, USR1: 10 } as const

/** The limit is set in the environment of the loop's daemon. */
export const limitedLabel = { name: 'team', value: 'blue', max: 2 } as const

export const taskKinds: Readonly<Record<string, TaskKind>> = {
  true: { share: 20, make: () => plain(['true'], {}) },

  exitCode: {
    share: 9,
    make: ({ random }) => {
      const exitCode = between(random, 1, 99)
      return failing(sh(`echo leaving; exit ${exitCode}`), { stdout: 'leaving\n' }, { exitCode })
    },
  },

  printer: {
    share: 14,
    make: ({ random }) => {
      const count = between(random, 5, 25)
      const pause = pick(random, ['0.05', '0.1', '0.15'])
      const program = `i=0; while [ $i -lt ${count} ]; do echo "out $i"; echo "err $i" >&2; i=$((i+1)); sleep ${pause}; done`
      return plain(sh(program), { stdout: numbered(count, 'out'), stderr: numbered(count, 'err') })
    },
  },

  followedPrinter: {
    share: 5,
    make: ({ random, calls }) => {
      const count = between(random, 5, 25)
      const planned = plain(sh(`i=0; while [ $i -lt ${count} ]; do echo "out $i"; i=$((i+1)); sleep 0.1; done`), { stdout: numbered(count, 'out') })
      let followed: Buffer | undefined
      return {
        ...planned,
        meanwhile: async id => { followed = await calls.follow(id) },
        check: async (task, log) => [
          ...await planned.check(task, log),
          ...followed?.equals(numbered(count, 'out')) ? [] : [`whoever followed it over every restart has ${JSON.stringify(followed?.toString())}`],
        ],
      }
    },
  },

  manyLines: {
    share: 4,
    make: ({ random }) => {
      const count = between(random, 120_000, 200_000)
      return plain(['seq', '1000001', String(1_000_000 + count)], { stdout: Buffer.from(Array.from({ length: count }, (_value, index) => `${1_000_001 + index}\n`).join('')) })
    },
  },

  longLine: {
    share: 3,
    make: ({ random }) => {
      const bytes = between(random, MiB, 3 * MiB)
      return plain(sh(`head -c ${bytes} /dev/zero | tr '\\0' x; printf '\\nend'`), { stdout: Buffer.concat([Buffer.alloc(bytes, 'x'), Buffer.from('\nend')]) })
    },
  },

  bytes: {
    share: 5,
    make: ({ random }) => {
      const bytes = randomBytes(between(random, 1, 8192))
      return plain(sh('echo "$BYTES" | base64 -d; printf \'10 %%\\r50 %%\\r100 %%\\r\\nnever ended\' >&2'), { stdout: bytes, stderr: '10 %\r50 %\r100 %\r\nnever ended' }, {
        env: { BYTES: bytes.toString('base64') },
      })
    },
  },

  /** Characters whose bytes come one by one, and a line that does. */
  pieces: {
    share: 4,
    make: () => plain(sh('printf \'caf\\303\'; sleep 0.3; printf \'\\251 \\360\\237\'; sleep 0.2; printf \'\\230\\200\\r\\n\\n\\nhalf\'; sleep 0.2; printf \' a line\\nno end\''), {
      stdout: 'café 😀\r\n\n\nhalf a line\nno end',
    }),
  },

  signal: {
    share: 4,
    make: ({ random }) => {
      const name = pick(random, Object.keys(signals) as Array<keyof typeof signals>)
      return failing(sh(`echo before; kill -${name} $$; echo after`), { stdout: 'before\n' }, { reason: 'signaled', exitCode: 128 + signals[name], signal: `SIG${name}` })
    },
  },

  timedOut: {
    share: 3,
    make: ({ random }) => {
      const timeoutMs = between(random, 2500, 4000)
      return {
        create: { entrypoint: sh('echo started; sleep 1000'), timeoutMs },
        check: (task, log) => {
          const lasted = Date.parse(task.endedAt ?? '') - Date.parse(task.startedAt ?? '')
          return [
            ...endedAs(task, { status: 'failed', reason: 'timed_out', attempts: 1 }),
            ...plainLog(log, { stdout: 'started\n' }),
            ...lasted >= timeoutMs ? [] : [`it had ${timeoutMs} ms, and was ended after ${lasted} ms`],
          ]
        },
      }
    },
  },

  cancelledWaiting: {
    share: 4,
    make: ({ calls }) => ({
      create: { entrypoint: ['true'], delayMs: hourMs },
      meanwhile: id => calls.cancel(id),
      check: (task, log) => [...endedAs(task, { status: 'cancelled', reason: 'cancelled', attempts: 0 }), ...plainLog(log, {})],
    }),
  },

  cancelledRunning: {
    share: 4,
    make: ({ calls }) => ({
      create: { entrypoint: sh('echo started; sleep 1000'), maxAttempts: 3 },
      meanwhile: async id => {
        await calls.untilLog(id, 'started\n')
        await calls.cancel(id)
      },
      check: (task, log) => [...endedAs(task, { status: 'cancelled', reason: 'cancelled', attempts: 1 }), ...plainLog(log, { stdout: 'started\n' })],
    }),
  },

  /** Whatever comes first: all that it says is true. */
  cancelledSomeTime: {
    share: 4,
    make: ({ calls, random }) => ({
      create: { entrypoint: sh('echo one; sleep 1; echo two') },
      meanwhile: id => calls.cancel(id, random() * 4000),
      check: (task, log) => task.status === 'complete'
        ? [...endedAs(task, { status: 'complete', reason: 'exited', exitCode: 0, attempts: 1 }), ...plainLog(log, { stdout: 'one\ntwo\n' })]
        : [
            ...endedAs(task, { status: 'cancelled', reason: 'cancelled', attempts: countedAttempts(task).length }),
            ...plainLog(log, { stdout: ['', 'one\n', 'one\ntwo\n'].find(text => text === log.stdout.toString()) ?? 'one\n' }),
            ...countedAttempts(task).length > 1 ? ['it was tried more than once'] : [],
          ],
    }),
  },

  deadLetter: {
    share: 4,
    make: ({ random }) => failing(sh('echo trying; exit 4'), { stdout: 'trying\n' }, { exitCode: 4 }, { maxAttempts: between(random, 2, 3), retry: { backoffMs: 300 } }),
  },

  /** Fails until a moment: which attempt comes first behind it is the daemon's to find. */
  failsAtFirst: {
    share: 4,
    make: ({ random }) => {
      const until = Math.ceil(Date.now() / 1000) + between(random, 3, 8)
      return {
        create: { entrypoint: sh('if [ $(date +%s) -lt "$UNTIL" ]; then echo no; exit 5; fi; echo yes'), env: { UNTIL: String(until) }, maxAttempts: 50, retry: { backoffMs: 400, maxBackoffMs: 1500 } },
        check: (task, log) => {
          const attempts = countedAttempts(task)
          const failed = attempts.slice(0, -1)
          return [
            ...endedAs(task, { status: 'complete', reason: 'exited', exitCode: 0, attempts: attempts.length }),
            ...plainLog(log, { stdout: `${'no\n'.repeat(failed.length)}yes\n` }),
            ...failed.every(({ status, end }) => status === 'failed' && end?.exitCode === 5) ? [] : [`an attempt before the last is ${JSON.stringify(failed)}`],
          ]
        },
      }
    },
  },

  delayed: {
    share: 3,
    make: ({ random }) => {
      const delayMs = between(random, 1000, 6000)
      const planned = plain(sh('echo late'), { stdout: 'late\n' }, { delayMs })
      return {
        ...planned,
        check: async (task, log) => {
          const waited = Date.parse(task.startedAt ?? '') - Date.parse(task.createdAt)
          return [...await planned.check(task, log), ...waited >= delayMs ? [] : [`it was not to begin for ${delayMs} ms, and began after ${waited} ms`]]
        },
      }
    },
  },

  unknownImage: {
    share: 3,
    make: (_world, name) => ({
      create: { image: `dir:/nowhere/${name}`, entrypoint: ['true'], maxAttempts: 3 },
      check: (task, log) => [
        ...endedAs(task, { status: 'failed', reason: 'setup_failed', attempts: 1, isDeadLetter: true }),
        ...task.end?.step === 'image' ? [] : [`the step that failed is ${task.end?.step}`],
        ...plainLog(log, {}),
      ],
    }),
  },

  outOfMemory: {
    share: 0.7,
    make: () => ({
      create: { entrypoint: ['tail', '/dev/zero'] },
      check: task => endedAs(task, { status: 'failed', reason: 'out_of_memory', attempts: 1 }),
    }),
  },

  limited: {
    share: 5,
    make: () => plain(sh('echo in; sleep 0.3; echo out'), { stdout: 'in\nout\n' }, { labels: { [limitedLabel.name]: limitedLabel.value } }),
  },

  fileOutput: {
    share: 3,
    make: ({ random, calls, outputDir }, name) => {
      const count = between(random, 100, 1500)
      const stdout = Buffer.concat([numbered(count, 'line'), Buffer.from([0xff, 0x0d, 0x0a]), Buffer.from('no end')])
      const planned = plain(sh(`i=0; while [ $i -lt ${count} ]; do echo "line $i"; i=$((i+1)); done; printf '\\377\\r\\nno end'`), { stdout }, { outputs: [{ type: 'file', name: `${name}.txt` }] })
      return { ...planned, check: async (task, log) => [...await planned.check(task, log), ...await calls.checkFile(task.id, `${outputDir}/${name}.txt`, stdout)] }
    },
  },

  webhookOutput: {
    share: 3,
    make: ({ random, calls, webhookUrl }, name) => {
      const count = between(random, 20, 400)
      const planned = plain(sh(`i=0; while [ $i -lt ${count} ]; do echo "line $i"; i=$((i+1)); done`), { stdout: numbered(count, 'line') }, {
        outputs: [{ type: 'webhook', url: `${webhookUrl}/${name}`, secret: secretOf(`/${name}`) }],
      })
      return { ...planned, check: async (task, log) => [...await planned.check(task, log), ...await calls.checkWebhook(task.id, `/${name}`, numbered(count, 'line'))] }
    },
  },
}
