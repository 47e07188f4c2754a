/**
 * A client in the place where it is started, for benchmarks; answers milliseconds as JSON.
 *
 *     network-client.ts dns '{"server": "203.0.113.53", "names": ["a.test", …]}'       one question after the other
 *     network-client.ts http '{"targets": [{"url": …, "headers": {…}}, …], "n": 200}'  each in turn, n times, on kept connections
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import * as dns from 'dns-packet'

export interface DnsTask { server: string, names: string[] }
export interface HttpTask { targets: Array<{ url: string, headers: Record<string, string> }>, n: number }

async function askNames ({ server, names }: DnsTask): Promise<number[]> {
  const socket = createSocket('udp4')
  const durations: number[] = []
  for (const [index, name] of names.entries()) {
    const query = dns.encode({ type: 'query', id: index, flags: dns.RECURSION_DESIRED, questions: [{ type: 'A', name }] })
    const startedMs = performance.now()
    socket.send(query, 53, server)
    const [message] = await once(socket, 'message', { signal: AbortSignal.timeout(5000) }) as [Buffer]
    durations.push(performance.now() - startedMs)
    const { id, answers = [] } = dns.decode(message)
    if (id !== index || answers.length === 0) throw new Error(`${server} has no answer for ${name}`)
  }
  socket.close()
  return durations
}

async function getPages ({ targets, n }: HttpTask): Promise<number[][]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const durations: number[][] = targets.map(() => [])
  const warmUps = Math.ceil(n / 10)
  for (let round = -warmUps; round < n; round++) {
    for (const [index, { url, headers }] of targets.entries()) {
      const startedMs = performance.now()
      const [answer] = await once(get(url, { agent, headers }), 'response') as [IncomingMessage]
      answer.resume()
      await once(answer, 'end')
      if (answer.statusCode !== 200) throw new Error(`${url} answered ${answer.statusCode}`)
      if (round >= 0) durations[index]?.push(performance.now() - startedMs)
    }
  }
  agent.destroy()
  return durations
}

const [kind, text = '{}'] = process.argv.slice(2)
const result = kind === 'dns' ? await askNames(JSON.parse(text) as DnsTask) : await getPages(JSON.parse(text) as HttpTask)
process.stdout.write(JSON.stringify(result))
