/** What can be done to a sandbox, and in which status. */
import type { Sandbox } from '../../schemas/sandbox.ts'
import type { ConsoleState } from '../stores/console-state.ts'
import type { Action } from './use-action.ts'
import { confirm } from './confirm.tsx'
import type { IconName } from './icon.tsx'

export interface SandboxAction {
  name: string
  icon: IconName
  isDangerous?: boolean
  /** Resolves to whether it was done. */
  run: () => Promise<boolean>
}

/** In the order in which they are shown. */
export function sandboxActions ({ client, sandboxes }: ConsoleState, sandbox: Sandbox, { run }: Action): SandboxAction[] {
  const { id, status } = sandbox
  const change = (verb: string) => async () => sandboxes.put(await client.post<Sandbox>(`/v1/sandboxes/${id}/${verb}`))
  const actions: SandboxAction[] = []
  if (sandbox.deletedAt !== undefined) return actions
  if (['created', 'stopped', 'failed'].includes(status)) actions.push({ name: 'Start', icon: 'play', run: () => run(change('start'), 'Sandbox started') })
  if (status === 'running') actions.push({ name: 'Pause', icon: 'pause', run: () => run(change('pause'), 'Sandbox paused') })
  if (status === 'paused') actions.push({ name: 'Resume', icon: 'play', run: () => run(change('resume'), 'Sandbox resumed') })
  if (status === 'running' || status === 'paused') {
    actions.push({
      name: 'Stop',
      icon: 'stop',
      run: async () => await confirm({ title: 'Stop this sandbox?', text: `Its processes are asked to end, and ended after ten seconds. Its files stay: ${id} can be started again.`, action: 'Stop sandbox', isDangerous: false }) &&
        await run(change('stop'), 'Sandbox stopped'),
    })
  }
  actions.push({
    name: 'Delete',
    icon: 'trash',
    isDangerous: true,
    run: async () => await confirm({ title: 'Delete this sandbox?', text: `${id} is ended, and its files and terminals are deleted for good.`, action: 'Delete sandbox' }) &&
      await run(async () => {
        await client.request(`/v1/sandboxes/${id}`, { method: 'DELETE', query: { force: true } })
        sandboxes.remove(id)
      }, 'Sandbox deleted'),
  })
  return actions
}
