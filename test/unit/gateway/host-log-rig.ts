import type { TestContext } from 'node:test'
import { HostLogClient } from '../../../src/gateway/logs/host-log-client.ts'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { workerRecord } from './proxy/proxy-rig.ts'

/** Reads the log of a task from the host at `url`, to its end, as a gateway does; by one client, as often as it is called. */
export function hostLogReader (t: TestContext, url: string): () => Promise<LogRecord[]> {
  const client = new HostLogClient({ workers: { access: async () => ({ worker: workerRecord('w1'), url, token: 'a' }) } })
  t.after(async () => await client.close())
  return async () => {
    const records: LogRecord[] = []
    for await (const batch of client.read({ workerId: 'w1', taskId: 'tsk_1', follow: false, signal: new AbortController().signal })) records.push(...batch)
    return records
  }
}
