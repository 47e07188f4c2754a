/** A window with a form: what it asks for is tried when it is sent, and what is wrong with it is said in place. */
import { useSignal } from '@preact/signals'
import type { ComponentChildren } from 'preact'
import { messageOf } from '../api/api-client.ts'
import { Button } from './button.tsx'
import { Dialog } from './dialog.tsx'

export interface FormDialogProps {
  title: string
  /** Of the button that sends it; `doing` while it is tried. */
  action: string
  doing: string
  onClose: () => void
  /** Resolves with whether it is done, and the window closes; what it throws is shown. */
  onSubmit: () => Promise<boolean>
  children: ComponentChildren
  isWide?: boolean
}

export function FormDialog ({ title, action, doing, onClose, onSubmit, children, isWide = false }: FormDialogProps) {
  const problem = useSignal<string | undefined>(undefined)
  const isBusy = useSignal(false)
  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    isBusy.value = true
    problem.value = undefined
    try {
      if (await onSubmit()) onClose()
    } catch (error) {
      problem.value = messageOf(error)
    } finally {
      isBusy.value = false
    }
  }
  return (
    <Dialog title={title} onClose={onClose} isWide={isWide}>
      <form onSubmit={event => void submit(event)}>
        {children}
        {problem.value !== undefined && <p class='problem' role='alert'>{problem.value}</p>}
        <div class='dialog-actions'>
          <Button onClick={onClose}>Cancel</Button>
          <Button type='submit' kind='primary' isBusy={isBusy.value}>{isBusy.value ? doing : action}</Button>
        </div>
      </form>
    </Dialog>
  )
}
