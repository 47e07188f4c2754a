/** Who is signed in sees the console; who is not is asked for a token. */
import { signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { forgetScreens, forgetToken, loadToken, saveToken, type TokenPlaces } from './api/session.ts'
import { ConsoleContext } from './parts/console-context.ts'
import { Questions } from './parts/confirm.tsx'
import { NoticeList } from './parts/notice-list.tsx'
import { Shell } from './parts/shell.tsx'
import { SignInPage } from './pages/sign-in-page.tsx'
import { ConsoleState } from './stores/console-state.ts'

const places: TokenPlaces = { tab: sessionStorage, browser: localStorage }
const session = signal<ConsoleState | undefined>(undefined)
const refusal = signal<string | undefined>(undefined)

function begin (token: string): void {
  refusal.value = undefined
  session.value = new ConsoleState({ token, onUnauthenticated: () => signOut('The token is not accepted any more: sign in again.') })
}

function signOut (why?: string): void {
  forgetToken(places)
  forgetScreens(sessionStorage)
  session.value = undefined
  refusal.value = why
}

const kept = loadToken(places)
if (kept !== undefined) begin(kept)

export function App () {
  const state = session.value
  useEffect(() => state?.start(), [state])
  const signIn = (token: string, keep: boolean) => {
    saveToken(places, token, keep)
    begin(token)
  }
  return (
    <>
      {state
        ? <ConsoleContext.Provider value={state}><Shell onSignOut={() => signOut()} /></ConsoleContext.Provider>
        : <SignInPage notice={refusal.value} onSignIn={signIn} />}
      <Questions />
      <NoticeList />
    </>
  )
}
