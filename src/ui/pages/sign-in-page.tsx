/** Asks for a token and tries it. */
import { useSignal } from '@preact/signals'
import { apiBase } from '../api/api-base.ts'
import { ApiClient, ApiError, messageOf } from '../api/api-client.ts'
import { cleanToken } from '../api/session.ts'
import { Button } from '../parts/button.tsx'
import { CheckField, TextField } from '../parts/field.tsx'

export function SignInPage ({ notice, onSignIn }: { notice?: string, onSignIn: (token: string, keep: boolean) => void }) {
  const text = useSignal('')
  const keep = useSignal(false)
  const problem = useSignal(notice)
  const isBusy = useSignal(false)

  const submit = async (event: SubmitEvent) => {
    event.preventDefault()
    const token = cleanToken(text.value)
    if (token === undefined) {
      problem.value = 'That does not look like a token: paste the whole line of the token file.'
      return
    }
    isBusy.value = true
    try {
      await new ApiClient({ token, base: apiBase() }).get('/v1/host')
      onSignIn(token, keep.value)
    } catch (error) {
      problem.value = refusalOf(error)
    } finally {
      isBusy.value = false
    }
  }

  return (
    <main class='sign-in'>
      <form onSubmit={event => void submit(event)} aria-labelledby='sign-in-title'>
        <img src='console/icon.svg' alt='' width='40' height='40' />
        <h1 id='sign-in-title'>Sign in to Berth</h1>
        {problem.value !== undefined && <p class='problem' role='alert'>{problem.value}</p>}
        <TextField label='Token' isSecret value={text} isRequired hasFocus hint='The daemon makes an admin token at its first start, and says in its log in which file it lies.' />
        <CheckField label='Keep me signed in on this browser' value={keep} />
        <Button type='submit' kind='primary' isBusy={isBusy.value}>Sign in</Button>
      </form>
    </main>
  )
}

function refusalOf (error: unknown): string {
  if (!(error instanceof ApiError)) return messageOf(error)
  if (error.status === 401) return 'This token is not known here.'
  if (error.status === 403) return 'This token is for one sandbox alone; the console needs an admin token or one that may read everything.'
  return error.isUnreachable ? 'The daemon does not answer. Is it running?' : error.message
}
