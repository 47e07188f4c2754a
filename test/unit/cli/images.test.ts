import assert from 'node:assert/strict'
import { PassThrough, Writable } from 'node:stream'
import { test } from 'node:test'
import type { Image, PullProgress } from '../../../src/schemas/image.ts'
import { id, refuse, run, sandbox, start, startFakeDaemon, task, taskId } from './fake-daemon.ts'

const MiB = 1024 ** 2
const reference = '127.0.0.1:5000/python'
const begunAt = Date.now()
const pullRoute = 'POST /v1/images/pull'

function image (digit: string, other: Partial<Image> = {}): Image {
  return {
    digest: `sha256:${digit.repeat(64)}`,
    references: [`${reference}:latest`],
    kind: 'layered',
    state: 'partial',
    sizeBytes: 1000 * MiB,
    localBytes: 90 * MiB,
    createdAt: new Date(begunAt - 2 * 3_600_000).toISOString(),
    lastUsedAt: new Date(begunAt - 300_000).toISOString(),
    leases: 0,
    ...other,
  }
}

function progress (phase: PullProgress['phase'], layers: Array<Partial<PullProgress['layers'][number]>> = []): object {
  const whole = layers.map((layer, index) => ({ digest: `sha256:${String(index).repeat(64)}`, state: 'fetching', fetchedBytes: 0, sizeBytes: 10 * MiB, localBytes: 0, totalBytes: 20 * MiB, ...layer }))
  return { type: 'progress', phase, reference, layers: whole, fetchedBytes: 5 * MiB, sizeBytes: whole.length * 10 * MiB }
}

const lines = (...records: object[]) => records.map(record => JSON.stringify(record) + '\n').join('')
const done = { type: 'image', ...image('a') }

test('pull prints the digest and tells of each step once', async t => {
  const fake = await startFakeDaemon(t, {
    [pullRoute]: (_call, response) => {
      response.end(lines(
        progress('resolving'),
        progress('fetching', [{}, { state: 'lazy' }]),
        progress('fetching', [{ fetchedBytes: 5 }, { state: 'lazy' }]),
        progress('done', [{ state: 'complete' }, { state: 'lazy' }]),
        done
      ))
    },
  })
  const ran = await run(fake, ['pull', reference])
  assert.deepEqual([ran.exitCode, ran.stdout], [0, `${image('a').digest}\n`])
  assert.deepEqual(ran.stderr.split('\n').slice(0, 4), [`resolving ${reference}`, 'fetching 2 layers, 20 MiB', '111111111111: ready, content comes when it is read', '000000000000: complete'])
  assert.match(ran.stderr, /\naaaaaaaaaaaa after .*: usable, 9 % of 1000 MiB is here and the rest comes when it is read\n$/)
  assert.deepEqual(fake.calls[0]?.body, { reference, mode: 'lazy' })
  assert.deepEqual(await run(fake, ['pull', '-q', '--eager', reference]), { exitCode: 0, stdout: `${image('a').digest}\n`, stderr: '' })
  assert.equal(fake.calls[1]?.body.mode, 'eager')
  assert.deepEqual(JSON.parse((await run(fake, ['pull', '--json', reference])).stdout), image('a'))
})

test('pull draws a bar for each layer on a terminal, and takes them away at the end', async t => {
  const drawn = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, {
    [pullRoute]: async (_call, response) => {
      response.write(lines(progress('fetching', [{ fetchedBytes: 5 * MiB }, { state: 'absent' }, { state: 'complete' }, { state: 'lazy', localBytes: 2 * MiB }])))
      await drawn.promise
      response.end(lines(done))
    },
  })
  let text = ''
  const stderr = Object.assign(new Writable({
    write (chunk, _encoding, ended) {
      text += String(chunk)
      if (text.includes('━')) drawn.resolve()
      ended()
    },
  }), { columns: 64, rows: 24 })
  const ran = await run(fake, ['pull', reference], { stderr, isTty: { stdin: true, stdout: false, stderr: true }, env: { BERTH_SOCKET: fake.socket, NO_COLOR: '1' } })
  assert.equal(ran.exitCode, 0)
  const frames = text.split('\r')
  // eslint-disable-next-line no-control-regex
  const shown = frames.find(frame => frame.includes('━'))!.replaceAll(/\u001b\[\d*[A-Z]/g, '').trimEnd().split('\n')
  assert.match(shown[0]!, /^pulling 127.0.0.1:5000\/python: fetching, 5 MiB of 40 MiB … [\d.]/)
  assert.deepEqual(shown.slice(1, 5), [
    `000000000000 ${'━'.repeat(12)}${'─'.repeat(12)}  50 %  5 MiB of 10 MiB`,
    `111111111111 ${'─'.repeat(24)}   0 %  waiting`,
    `222222222222 ${'━'.repeat(24)} 100 %  complete`,
    `333333333333 ${'━'.repeat(2)}${'─'.repeat(22)}  10 %  2 MiB of 20 MiB`,
  ])
  assert.ok(shown.every(line => line.length < 64))
  assert.match(frames.at(-1)!, /^\u001b\[Jaaaaaaaaaaaa after /) // eslint-disable-line no-control-regex
})

test('a terminal with fewer rows than an image has layers shows those that are under way', async t => {
  const drawn = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, {
    [pullRoute]: async (_call, response) => {
      response.write(lines(progress('fetching', Array.from({ length: 10 }, (_, n) => ({ state: n === 7 ? 'fetching' as const : 'complete' as const })))))
      await drawn.promise
      response.end(lines(done))
    },
  })
  let text = ''
  const stderr = Object.assign(new Writable({
    write (chunk, _encoding, ended) {
      text += String(chunk)
      if (text.includes('more layers')) drawn.resolve()
      ended()
    },
  }), { columns: 80, rows: 6 })
  await run(fake, ['pull', reference], { stderr, isTty: { stdin: true, stdout: false, stderr: true } })
  assert.match(text, /777777777777 ─.*\n.*and 9 more layers/)
  assert.doesNotMatch(text, /000000000000/)
})

test('pull takes a password from standard input and from nowhere else', async t => {
  const fake = await startFakeDaemon(t, { [pullRoute]: (_call, response) => { response.end(lines(done)) } })
  await run(fake, ['pull', '-q', '--username', 'me', '--password-stdin', reference], { input: 'hunter 2 \r\n' })
  assert.deepEqual(fake.calls[0]?.body.credentials, { username: 'me', password: 'hunter 2 ' })
  assert.equal(fake.calls[0]?.headers['idempotency-key'], undefined)
  const terminal = { isTty: { stdin: true, stdout: false, stderr: false } }
  for (const [argv, says, other] of [
    [['--username', 'me'], /--username: goes with --password-stdin/, {}],
    [['--password-stdin'], /--password-stdin: goes with --username NAME/, { input: 'x' }],
    [['--username', 'me', '--password-stdin'], /standard input is empty/, { input: '\n' }],
    [['--username', 'me', '--password-stdin'], /more than 8192 bytes/, { input: 'x'.repeat(9000) }],
    [['--username', 'me', '--password-stdin'], /a terminal would show the password/, terminal],
    [['--password', 'x'], /unknown option '--password'/, {}],
  ] as Array<[string[], RegExp, object]>) {
    const ran = await run(fake, ['pull', ...argv, reference], other)
    assert.equal(ran.exitCode, 125)
    assert.match(ran.stderr, says)
  }
  assert.equal(fake.calls.length, 1)
})

test('what the daemon refuses, and what goes wrong on the way, is said and ends with 125', async t => {
  const fake = await startFakeDaemon(t, {
    [pullRoute]: (_call, response) => { response.end(lines(progress('resolving'), { type: 'error', code: 'registry_unavailable', kind: 'unavailable', message: 'the registry is away', requestId: 'r' })) },
  })
  assert.deepEqual(await run(fake, ['pull', '-q', reference]), { exitCode: 125, stdout: '', stderr: 'berth: the registry is away\n' })
  fake.routes[pullRoute] = (_call, response) => refuse(response, 503, 'unavailable', 'registry_unavailable', 'the registry is away')
  assert.equal((await run(fake, ['pull', '-q', reference])).stderr, 'berth: the registry is away\n')
  fake.routes[pullRoute] = (_call, response) => refuse(response, 403, 'permission_denied', 'image_auth_required', 'the registry wants credentials')
  assert.match((await run(fake, ['pull', '-q', reference])).stderr, /^berth: the registry wants credentials\n.*berth pull --username NAME --password-stdin/)
  assert.equal((await run(fake, ['pull', '-q', '--username', 'me', '--password-stdin', reference], { input: 'x' })).stderr, 'berth: the registry wants credentials\n')
})

test('a pull whose daemon goes away is asked for again when it is back, but not for ever when the registry is away', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/host': () => ({}),
    [pullRoute]: (_call, response) => {
      if (fake.callsTo(pullRoute).length > 1) return void response.end(lines(done))
      response.write(lines(progress('resolving')), () => { void fake.down().then(() => fake.up()) })
    },
  })
  assert.equal((await run(fake, ['pull', '-q', reference])).stdout, `${image('a').digest}\n`)
  fake.calls.length = 0
  fake.routes[pullRoute] = (_call, response) => {
    if (fake.callsTo(pullRoute).length > 1) return refuse(response, 503, 'unavailable', 'registry_unavailable', 'the registry is away')
    response.write(lines(progress('resolving')), () => response.destroy())
  }
  assert.equal((await run(fake, ['pull', '-q', reference])).stderr, 'berth: the registry is away\n')
})

test('Ctrl-C leaves a pull at once', async t => {
  const begun = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, { [pullRoute]: (_call, response) => { response.write(lines(progress('resolving')), () => begun.resolve()) } })
  const running = start(fake, ['pull', '-q', reference])
  await begun.promise
  running.signal('SIGINT')
  assert.deepEqual(await running.done, { exitCode: 130, stdout: '', stderr: '' })
})

test('images shows one row for each name, digests or JSON', async t => {
  const images = [
    image('a', { references: ['docker.io/library/python:3.12', 'docker.io/acme/python:latest'], leases: 2 }),
    image('b', { references: [], state: 'complete', localBytes: 1000 * MiB }),
    image('c', { references: ['a\u001b[31m'], localBytes: 1000 * MiB }),
  ]
  const fake = await startFakeDaemon(t, { 'GET /v1/images': call => call.query.has('cursor') ? { items: images.slice(1) } : { items: images.slice(0, 1), nextCursor: 'x' } })
  const rows = (await run(fake, ['images'])).stdout.trimEnd().split('\n').map(row => row.split(/ {2,}/))
  assert.deepEqual(rows, [
    ['REFERENCE', 'DIGEST', 'SIZE', 'LOCAL', 'CREATED', 'USED', 'SANDBOXES'],
    ['python:3.12', 'aaaaaaaaaaaa', '1000 MiB', '9 %', '2 hours ago', '5 minutes ago', '2'],
    ['acme/python:latest', 'aaaaaaaaaaaa', '1000 MiB', '9 %', '2 hours ago', '5 minutes ago', '2'],
    ['-', 'bbbbbbbbbbbb', '1000 MiB', '100 %', '2 hours ago', '5 minutes ago', '0'],
    ['a [31m', 'cccccccccccc', '1000 MiB', '99 %', '2 hours ago', '5 minutes ago', '0'],
  ])
  assert.match((await run(fake, ['images', '--digests'])).stdout, /^python:3.12 +sha256:a{64} /m)
  assert.equal((await run(fake, ['images', '-q'])).stdout, images.map(({ digest }) => `${digest}\n`).join(''))
  assert.deepEqual(JSON.parse((await run(fake, ['images', '--json'])).stdout), images)
})

test('rmi takes references, digests and their beginnings', async t => {
  const images = [
    image('a', { references: ['alpine'] }),
    image('b', { references: ['beef', 'moved'] }),
    image('c', { digest: `sha256:beef${'c'.repeat(60)}`, references: ['moved'] }),
    image('d', { digest: `sha256:dddd${'c'.repeat(60)}`, references: [] }),
    image('d', { references: [] }),
  ]
  const fake = await startFakeDaemon(t, {
    'GET /v1/images': call => {
      const reference = call.query.get('reference')
      return { items: reference === null ? images : images.filter(one => one.references.includes(reference)) }
    },
  })
  for (const { digest } of images) fake.routes[`DELETE /v1/images/${digest}`] = () => ({ freedBytes: 5 })
  for (const [given, index] of [['alpine', 0], [images[0]!.digest, 0], ['aaaa', 0], ['sha256:aaaa', 0], ['beef', 1], ['beefc', 2], ['ddddd', 4]] as Array<[string, number]>) {
    fake.calls.length = 0
    assert.deepEqual(await run(fake, ['rmi', given]), { exitCode: 0, stdout: `${given}\n`, stderr: '' })
    assert.equal(fake.calls.at(-1)?.path, `/v1/images/${images[index]!.digest}`)
  }
  for (const given of ['aaa', 'alpine:3', 'sha256:', '']) assert.match((await run(fake, ['rmi', given])).stderr, /no image on this host is '.*'; see them with: berth images/)
  assert.match((await run(fake, ['rmi', 'moved'])).stderr, /'moved' stands for bbbbbbbbbbbb, beefcccccccc; give the digest of one/)
  assert.match((await run(fake, ['rmi', 'dddd'])).stderr, /'dddd' stands for ddddcccccccc, dddddddddddd; give the digest of one/)
  assert.deepEqual(JSON.parse((await run(fake, ['rmi', '--json', 'alpine'])).stdout), { digest: images[0]!.digest, removed: true, freedBytes: 5 })
})

test('rmi says who uses an image and goes on with the others', async t => {
  const [used, free] = [image('a'), image('b')]
  const fake = await startFakeDaemon(t, {
    [`DELETE /v1/images/${used.digest}`]: (_call, response) => {
      response.writeHead(409, { 'content-type': 'application/json' }).end(JSON.stringify({ kind: 'conflict', code: 'image_in_use', message: 'in use', requestId: 'r', details: { leases: [id, '2', '3', '4'] } }))
    },
    [`DELETE /v1/images/${free.digest}`]: () => ({ freedBytes: 5 }),
  })
  const ran = await run(fake, ['rmi', used.digest, free.digest])
  assert.deepEqual([ran.exitCode, ran.stdout], [125, `${free.digest}\n`])
  assert.equal(ran.stderr, `berth: ${used.digest} is used by ${id}, 2, 3 and 1 more; delete them first with: berth rm -f ID\n`)
})

test('prune asks on a terminal, and wants --yes elsewhere', async t => {
  const route = 'POST /v1/images/prune'
  const fake = await startFakeDaemon(t, { [route]: () => ({ digests: [image('a').digest], freedBytes: 3 * MiB }) })
  const refused = await run(fake, ['prune'])
  assert.deepEqual([refused.exitCode, fake.calls.length], [125, 0])
  assert.match(refused.stderr, /nobody can be asked here whether to delete images; say it with --yes/)
  const ask = (text: string, ...argv: string[]) => {
    const stdin = new PassThrough()
    stdin.end(text)
    return run(fake, ['prune', ...argv], { stdin, isTty: { stdin: true, stdout: true, stderr: false } })
  }
  for (const no of ['n\n', '\n', '', 'yesterday\n']) {
    assert.deepEqual(await ask(no), { exitCode: 0, stdout: '', stderr: 'This will delete all images that no sandbox uses. Go on? [y/N] berth: nothing was deleted\n' })
  }
  assert.equal(fake.calls.length, 0)
  const agreed = await ask('Y\n', '--keep', '10g', '--unused-for', '7d')
  assert.deepEqual(agreed, {
    exitCode: 0,
    stdout: `${image('a').digest}\n`,
    stderr: 'This will delete images that no sandbox uses and that were not used for 7d until images take at most 10g. Go on? [y/N] berth: 1 image deleted, 3 MiB freed\n',
  })
  assert.deepEqual(fake.calls[0]?.body, { keepBytes: 10 * 1024 ** 3, unusedForMs: 7 * 86_400_000 })
  for (const flag of ['--yes', '-y', '-f']) assert.equal((await run(fake, ['prune', flag])).exitCode, 0)
  assert.deepEqual(JSON.parse((await run(fake, ['prune', '-y', '--json'])).stdout), { digests: [image('a').digest], freedBytes: 3 * MiB })
  assert.deepEqual(fake.calls.at(-1)?.body, {})
  assert.match((await run(fake, ['prune', '-y', '--keep', 'all'])).stderr, /--keep: 'all' is not a size/)
})

test('task run and create take the image as a flag, so that every operand is the command', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/sandboxes': () => sandbox(), 'POST /v1/tasks': () => task() })
  for (const [argv, body] of [
    [['task', 'run', '--image', reference, '--', 'python3', '-c', 'print(1)'], { image: reference, entrypoint: ['python3', '-c', 'print(1)'] }],
    [['task', 'run', '--image', reference, 'python3', '-c', 'print(1)'], { image: reference, entrypoint: ['python3', '-c', 'print(1)'] }],
    [['task', 'run', '--image', reference, '--', '-x', '--json'], { image: reference, entrypoint: ['-x', '--json'] }],
    [['task', 'run', `--image=${reference}`], { image: reference }],
    [['task', 'run', '--pull', 'always', reference, 'ls', '--image', 'x'], { image: reference, entrypoint: ['ls', '--image', 'x'], imagePull: 'always' }],
    [['create', '--image', reference, '--pull=never', '--', 'ls', '-l'], { image: reference, entrypoint: ['ls', '-l'], imagePull: 'never', start: false }],
  ] as Array<[string[], object]>) {
    const ran = await run(fake, argv)
    assert.deepEqual([ran.exitCode, ran.stderr], [0, ''])
    assert.deepEqual(fake.calls.at(-1)?.body, body)
  }
  for (const command of ['run', 'create']) assert.match((await run(fake, [command])).stderr, new RegExp(`missing required argument 'IMAGE'\nSee: berth ${command} --help`))
  assert.match((await run(fake, ['run', '--pull', 'maybe', reference])).stderr, /'--pull <WHEN>' argument 'maybe' is invalid\. Allowed choices are missing, always, never/)
})

test('on a terminal run and create show the pull of an image that is not here, and then make the sandbox', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/images': call => ({ items: call.query.get('reference') === 'here' ? [image('b')] : [] }),
    [pullRoute]: (_call, response) => { response.end(lines(progress('resolving'), done)) },
    'POST /v1/sandboxes': () => sandbox(),
    'POST /v1/tasks': () => task(),
    [`GET /v1/tasks/${taskId}/wait`]: () => task(),
  })
  const terminal = { isTty: { stdin: true, stdout: true, stderr: true } }
  for (const [argv, pulls] of [
    [['run', '-d', 'python', 'ls'], 1], [['create', '--image', reference], 1], [['run', '-d', '--pull', 'always', 'here'], 1],
    [['run', '-d', 'here'], 0], [['run', '-d', '--pull', 'never', 'python'], 0], [['run', '-d', 'berth/base'], 0], [['run', '-d', 'oci:/layout:tag'], 0],
    [['run', '-d', '-q', 'python'], 0], [['run', '-d', '--progress', 'plain', 'python'], 0],
  ] as Array<[string[], number]>) {
    fake.calls.length = 0
    const ran = await run(fake, argv, terminal)
    assert.deepEqual([ran.exitCode, ran.stdout, fake.callsTo(pullRoute).length], [0, `${argv[0] === 'run' ? taskId : id}\n`, pulls], argv.join(' '))
    assert.equal(fake.calls.findLast(({ method }) => method === 'POST')?.path, argv[0] === 'run' ? '/v1/tasks' : '/v1/sandboxes')
  }
  fake.calls.length = 0
  await run(fake, ['run', '-d', 'python'])
  assert.deepEqual(fake.calls.map(({ path }) => path), ['/v1/tasks', `/v1/tasks/${taskId}/wait`])
})

test('the first Ctrl-C during the pull of a run leaves, and no sandbox is made', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/images': () => ({ items: [] }),
    [pullRoute]: (_call, response) => { response.write(lines(progress('resolving')), () => running.signal('SIGINT')) },
  })
  const running = start(fake, ['run', 'python', 'ls'], { isTty: { stdin: true, stdout: true, stderr: true } })
  assert.equal((await running.done).exitCode, 130)
  assert.equal(fake.callsTo('POST /v1/sandboxes').length, 0)
})
