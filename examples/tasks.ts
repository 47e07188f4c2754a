/**
 * A batch of jobs on Berth, with nothing but fetch: queued as one, run as there is room, each with its result and its output.
 * Started again with the same BATCH it queues nothing twice, and takes home what became of the first.
 *
 *   BERTH_URL=http://127.0.0.1:7070 BERTH_TOKEN=… BATCH=primes-1 bin/node24 examples/tasks.ts
 */
const url = process.env['BERTH_URL'] ?? 'http://127.0.0.1:7070'
const token = process.env['BERTH_TOKEN'] ?? ''
const batch = process.env['BATCH'] ?? `primes-${Date.now()}`

interface Task {
  id: string
  status: 'pending' | 'scheduled' | 'running' | 'complete' | 'failed' | 'cancelled'
  labels: Record<string, string>
  attempts: unknown[]
  end?: { reason: string, exitCode?: number }
}

/** One request; an error answer becomes an Error with the API's own words, which say what to do. */
async function call (method: string, path: string, body?: unknown): Promise<Response> {
  const response = await fetch(`${url}/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json', 'idempotency-key': batch }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (response.ok) return response
  const { code, message } = await response.json() as { code: string, message: string }
  throw new Error(`${code}: ${message}`)
}

const numbers = [91, 97, 101, 119]
const isPrime = 'n=$1; i=2; while [ $((i * i)) -le $n ]; do [ $((n % i)) = 0 ] && { echo "$n = $i * $((n / i))"; exit 1; }; i=$((i + 1)); done; echo "$n is prime"'

const queued = await call('POST', '/tasks', {
  tasks: numbers.map(n => ({
    image: 'berth/base',
    entrypoint: ['sh', '-c', isPrime, 'sh', String(n)],
    labels: { batch, number: String(n) },
    resources: { cpuMillis: 500, memoryBytes: 128 * 1024 ** 2 }, // what each may use is what it waits for
    timeoutMs: 60_000,
  })),
})
const { items } = await queued.json() as { items: Task[] }
console.log(`queued ${items.length} tasks as ${batch}`)

for (const { id } of items) {
  const task = await (await call('GET', `/tasks/${id}/wait`)).json() as Task
  const output = await (await call('GET', `/tasks/${id}/logs?format=text`)).text()
  console.log(`${task.labels['number']}: ${task.status}, exit code ${task.end?.exitCode}: ${output.trim()}`)
  await call('DELETE', `/tasks/${id}`)
}
