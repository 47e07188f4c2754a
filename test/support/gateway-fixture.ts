/**
 * A gateway as a program, for a network namespace of a test: `gateway-fixture.ts` listens at 127.0.0.1 and writes its port. Each line that
 * it reads is answered by one:
 *
 *     leases   {"<lease>": "<address>", …}: what is lent
 *     away     ends connections, and listens no more
 *     back     listens at the same port again
 */
import { createInterface } from 'node:readline'
import { FakeGateway } from './fake-gateway.ts'

const gateway = new FakeGateway()
const port = await gateway.listen()
const actions: Record<string, () => unknown> = {
  leases: () => Object.fromEntries(gateway.leases),
  away: () => gateway.close(),
  back: () => gateway.listen(`127.0.0.1:${port}`),
}
process.stdout.write(`${port}\n`)
for await (const line of createInterface({ input: process.stdin })) {
  const value = await actions[line]?.()
  process.stdout.write(`${JSON.stringify(value ?? null)}\n`)
}
process.exit(0)
