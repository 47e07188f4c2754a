/** Queues a task. */
import { useSignal } from '@preact/signals'
import { useMemo } from 'preact/hooks'
import type { Task } from '../../schemas/task.ts'
import { addNotice } from '../stores/notices.ts'
import { parseWhole } from '../text/form-values.ts'
import { useConsole } from './console-context.ts'
import { TextField } from './field.tsx'
import { FormDialog } from './form-dialog.tsx'
import { RunFields } from './run-fields.tsx'
import { makeRunForm, readRunForm } from './run-form.ts'

export function TaskDialog ({ onClose, onCreated }: { onClose: () => void, onCreated: (task: Task) => void }) {
  const { client, tasks } = useConsole()
  const form = useMemo(makeRunForm, [])
  const attempts = useSignal('')
  const priority = useSignal('')
  const create = async () => {
    const task = await client.post<Task>('/v1/tasks', { ...readRunForm(form), maxAttempts: parseWhole(attempts.value), priority: parseWhole(priority.value) })
    tasks.put(task)
    addNotice('done', 'Task created')
    onCreated(task)
    return true
  }
  return (
    <FormDialog title='Create task' action='Create' doing='Creating…' onClose={onClose} onSubmit={create} isWide>
      <RunFields form={form} commandHint="Left empty, the image's own command." />
      <div class='field-row halves'>
        <TextField label='Attempts' value={attempts} placeholder='1' hint='How often it may be run until it ends with 0' />
        <TextField label='Priority' value={priority} placeholder='0' hint='Higher ones go first' />
      </div>
    </FormDialog>
  )
}
