/** What one who is signed in works with: the API, what is known of the host, and what keeps that up to date. */
import { signal } from '@preact/signals'
import type { Sandbox } from '../../schemas/sandbox.ts'
import type { Task } from '../../schemas/task.ts'
import type { UsageList } from '../../schemas/usage.ts'
import { apiBase } from '../api/api-base.ts'
import { ApiClient } from '../api/api-client.ts'
import { EventFeed } from '../api/event-feed.ts'
import { ResourceStore } from './resource-store.ts'
import { addUsage, noUsage, type UsageHistory } from './usage-history.ts'

const mostSandboxes = 5000
const mostTasks = 1000

export interface ConsoleStateOptions {
  token: string
  /** The token is not known any more. */
  onUnauthenticated: () => void
}

export class ConsoleState {
  readonly client: ApiClient
  readonly feed: EventFeed
  readonly sandboxes: ResourceStore<Sandbox>
  readonly tasks: ResourceStore<Task>
  readonly usage = signal<UsageHistory>(noUsage)

  constructor ({ token, onUnauthenticated }: ConsoleStateOptions) {
    const client = new ApiClient({ token, base: apiBase(), onUnauthenticated })
    this.client = client
    this.feed = new EventFeed(client)
    this.sandboxes = new ResourceStore({
      client,
      path: '/v1/sandboxes',
      most: mostSandboxes,
      idOf: ({ type, sandboxId }) => type.startsWith('sandbox.') || type.startsWith('exec.') ? sandboxId : undefined,
      isDeletion: ({ type }) => type === 'sandbox.deleted',
    })
    this.tasks = new ResourceStore({
      client,
      path: '/v1/tasks',
      most: mostTasks,
      idOf: ({ type, taskId }) => type.startsWith('task.') ? taskId : undefined,
      isDeletion: ({ type }) => type === 'task.deleted',
    })
  }

  /** Follows what happens until the answered function is called. */
  start (): () => void {
    const forget = this.feed.subscribe(event => {
      this.sandboxes.receive(event)
      this.tasks.receive(event)
    })
    const forgetGeneration = this.feed.generation.subscribe(generation => { if (generation > 0) this.reload() })
    void this.feed.run()
    return () => {
      forget()
      forgetGeneration()
      this.feed.stop()
      this.sandboxes.close()
      this.tasks.close()
    }
  }

  /** Reads anew what was read before. */
  reload (): void {
    if (this.sandboxes.state.peek() !== 'idle') void this.sandboxes.load()
    if (this.tasks.state.peek() !== 'idle') void this.tasks.load()
  }

  /** Looks at what sandboxes use. Failures leave what was known: the next look comes soon. */
  async readUsage (): Promise<void> {
    const found = await this.client.get<UsageList>('/v1/usage').catch(() => undefined)
    if (found) this.usage.value = addUsage(this.usage.peek(), found.items)
  }
}
