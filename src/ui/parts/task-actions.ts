/** What can be done to a task, and in which status. */
import type { Task } from '../../schemas/task.ts'
import type { ConsoleState } from '../stores/console-state.ts'
import { confirm } from './confirm.tsx'
import type { SandboxAction } from './sandbox-actions.ts'
import type { Action } from './use-action.ts'

export function taskActions ({ client, tasks }: ConsoleState, { id, status }: Task, { run }: Action): SandboxAction[] {
  const isEnded = ['complete', 'failed', 'cancelled'].includes(status)
  const change = (verb: string) => async () => tasks.put(await client.post<Task>(`/v1/tasks/${id}/${verb}`))
  if (!isEnded) {
    return [{
      name: 'Cancel',
      icon: 'stop',
      run: async () => await confirm({ title: 'Cancel this task?', text: `${id} is asked to end, and counts as cancelled.`, action: 'Cancel task' }) && await run(change('cancel'), 'Task cancelled'),
    }]
  }
  return [
    ...(status === 'complete' ? [] : [{ name: 'Retry', icon: 'retry', run: () => run(change('retry'), 'Task queued again') } satisfies SandboxAction]),
    {
      name: 'Delete',
      icon: 'trash',
      isDangerous: true,
      run: async () => await confirm({ title: 'Delete this task?', text: `${id} and its log are deleted for good.`, action: 'Delete task' }) &&
        await run(async () => {
          await client.request(`/v1/tasks/${id}`, { method: 'DELETE' })
          tasks.remove(id)
        }, 'Task deleted'),
    },
  ]
}
