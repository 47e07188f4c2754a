/** Makes a sandbox. */
import { useSignal } from '@preact/signals'
import { useMemo } from 'preact/hooks'
import type { Sandbox } from '../../schemas/sandbox.ts'
import { messageOf } from '../api/api-client.ts'
import { addNotice } from '../stores/notices.ts'
import { Button } from './button.tsx'
import { useConsole } from './console-context.ts'
import { Dialog } from './dialog.tsx'
import { RunFields } from './run-fields.tsx'
import { makeRunForm, readRunForm } from './run-form.ts'

export function SandboxDialog ({ onClose, onCreated }: { onClose: () => void, onCreated: (sandbox: Sandbox) => void }) {
  const { client, sandboxes } = useConsole()
  const form = useMemo(makeRunForm, [])
  const problem = useSignal<string | undefined>(undefined)
  const isBusy = useSignal(false)

  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    isBusy.value = true
    problem.value = undefined
    try {
      const sandbox = await client.post<Sandbox>('/v1/sandboxes', readRunForm(form))
      sandboxes.put(sandbox)
      addNotice('done', 'Sandbox created')
      onClose()
      onCreated(sandbox)
    } catch (error) {
      problem.value = messageOf(error)
    } finally {
      isBusy.value = false
    }
  }

  return (
    <Dialog title='Create sandbox' onClose={onClose} isWide>
      <form onSubmit={event => void submit(event)}>
        <RunFields form={form} commandHint='Left empty, it idles, ready for terminals.' />
        {problem.value !== undefined && <p class='problem' role='alert'>{problem.value}</p>}
        <div class='dialog-actions'>
          <Button onClick={onClose}>Cancel</Button>
          <Button type='submit' kind='primary' isBusy={isBusy.value}>{isBusy.value ? 'Creating…' : 'Create'}</Button>
        </div>
      </form>
    </Dialog>
  )
}
