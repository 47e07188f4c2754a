/** Queues a task. */
import { useSignal } from '@preact/signals'
import { useMemo } from 'preact/hooks'
import type { Task } from '../../schemas/task.ts'
import { messageOf } from '../api/api-client.ts'
import { addNotice } from '../stores/notices.ts'
import { parseWhole } from '../text/form-values.ts'
import { Button } from './button.tsx'
import { useConsole } from './console-context.ts'
import { Dialog } from './dialog.tsx'
import { TextField } from './field.tsx'
import { RunFields } from './run-fields.tsx'
import { makeRunForm, readRunForm } from './run-form.ts'

export function TaskDialog ({ onClose, onCreated }: { onClose: () => void, onCreated: (task: Task) => void }) {
  const { client, tasks } = useConsole()
  const form = useMemo(makeRunForm, [])
  const attempts = useSignal('')
  const priority = useSignal('')
  const problem = useSignal<string | undefined>(undefined)
  const isBusy = useSignal(false)

  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    isBusy.value = true
    problem.value = undefined
    try {
      const task = await client.post<Task>('/v1/tasks', { ...readRunForm(form), maxAttempts: parseWhole(attempts.value), priority: parseWhole(priority.value) })
      tasks.put(task)
      addNotice('done', 'Task created')
      onClose()
      onCreated(task)
    } catch (error) {
      problem.value = messageOf(error)
    } finally {
      isBusy.value = false
    }
  }

  return (
    <Dialog title='Create task' onClose={onClose} isWide>
      <form onSubmit={event => void submit(event)}>
        <RunFields form={form} commandHint="Left empty, the image's own command." />
        <div class='field-row halves'>
          <TextField label='Attempts' value={attempts} placeholder='1' hint='How often it may be run until it ends with 0' />
          <TextField label='Priority' value={priority} placeholder='0' hint='Higher ones go first' />
        </div>
        {problem.value !== undefined && <p class='problem' role='alert'>{problem.value}</p>}
        <div class='dialog-actions'>
          <Button onClick={onClose}>Cancel</Button>
          <Button type='submit' kind='primary' isBusy={isBusy.value}>{isBusy.value ? 'Creating…' : 'Create'}</Button>
        </div>
      </form>
    </Dialog>
  )
}
