/** Asks before something is done that cannot be taken back. */
import { signal } from '@preact/signals'
import { Button } from './button.tsx'
import { Dialog } from './dialog.tsx'

interface Question {
  title: string
  text: string
  action: string
  isDangerous: boolean
  answer: (isYes: boolean) => void
}

const question = signal<Question | undefined>(undefined)

/** Resolves to what was answered. */
export function confirm (asked: { title: string, text: string, action: string, isDangerous?: boolean }): Promise<boolean> {
  return new Promise(resolve => {
    question.value?.answer(false)
    question.value = {
      isDangerous: true,
      ...asked,
      answer: isYes => {
        question.value = undefined
        resolve(isYes)
      },
    }
  })
}

/** Where questions appear; once on the page. */
export function Questions () {
  const asked = question.value
  if (!asked) return null
  return (
    <Dialog title={asked.title} onClose={() => asked.answer(false)}>
      <p>{asked.text}</p>
      <div class='dialog-actions'>
        <Button onClick={() => asked.answer(false)}>Cancel</Button>
        <Button kind={asked.isDangerous ? 'danger' : 'primary'} onClick={() => asked.answer(true)}>{asked.action}</Button>
      </div>
    </Dialog>
  )
}
