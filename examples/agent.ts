/**
 * An agent's tool loop on Berth, with nothing but fetch: a sandbox per session, a streamed exec per tool call, and the
 * sandbox is deleted whatever happens. The model is a script here; put yours in its place.
 *
 *   BERTH_URL=http://127.0.0.1:7070 BERTH_TOKEN=… bin/node24 examples/agent.ts
 */
const url = process.env['BERTH_URL'] ?? 'http://127.0.0.1:7070'
const token = process.env['BERTH_TOKEN'] ?? ''

interface Observation {
  exitCode: number
  output: string
}

type ExecEvent =
  | { type: 'started', id: string }
  | { type: 'stdout' | 'stderr', data: string }
  | { type: 'exit', exitCode: number, timedOut: boolean }
  | { type: 'error', code: string, message: string }

/** One request; an error answer becomes an Error with the API's own words, which say what to do. */
async function call (method: string, path: string, body?: unknown): Promise<Response> {
  const response = await fetch(`${url}/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (response.ok) return response
  const { code, message } = await response.json() as { code: string, message: string }
  throw new Error(`${code}: ${message}`)
}

/** Runs a shell command in the sandbox and shows its output while it runs. */
async function runTool (sandboxId: string, command: string): Promise<Observation> {
  const response = await call('POST', `/sandboxes/${sandboxId}/execs?format=ndjson`, { argv: ['sh', '-c', command], timeoutMs: 60_000 })
  let output = ''
  for await (const event of events(response)) {
    if (event.type === 'stdout' || event.type === 'stderr') {
      output += event.data
      process.stdout.write(event.data)
    } else if (event.type === 'exit') {
      return { exitCode: event.exitCode, output }
    } else if (event.type === 'error') {
      throw new Error(`${event.code}: ${event.message}`)
    }
  }
  throw new Error('the stream ended before the process did')
}

/** The records of an NDJSON answer, as they come. */
async function * events (response: Response): AsyncGenerator<ExecEvent> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of response.body ?? []) {
    const lines = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line !== '') yield JSON.parse(line) as ExecEvent
  }
}

/** Stands in for a model: looks at what the last command did, and says the next one, or nothing when it is content. */
function nextCommand (last: Observation | undefined): string | undefined {
  if (!last) return 'cat fib.sh 2>/dev/null || echo "there is no fib.sh"'
  if (last.output.includes('there is no fib.sh')) return 'printf \'a=0 b=1\\nwhile [ $a -lt 100 ]; do echo $a; c=$((a + b)); a=$b; b=$c; done\\n\' > fib.sh; sh fib.sh'
  if (last.exitCode === 0 && last.output.endsWith('89\n')) return undefined
  return 'sh -x fib.sh'
}

const maxTurns = 8
const created = await call('POST', '/sandboxes', {
  image: 'berth/base',
  resources: { cpuMillis: 1000, memoryBytes: 256 * 1024 ** 2 },
  labels: { example: 'agent' },
  timeoutMs: 600_000, // should this program die, the sandbox ends by itself
})
const { id } = await created.json() as { id: string }
try {
  let last: Observation | undefined
  for (let turn = 1; turn <= maxTurns; turn++) {
    const command = nextCommand(last)
    if (command === undefined) break
    console.log(`\n[turn ${turn}] ${command}`)
    last = await runTool(id, command)
    console.log(`[exit code ${last.exitCode}]`)
  }
  console.log('\nthe agent is content')
} finally {
  await call('DELETE', `/sandboxes/${id}?force=true`)
}
