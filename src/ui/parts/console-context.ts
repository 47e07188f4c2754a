/** Hands the state of who is signed in to every part of the page. */
import { createContext } from 'preact'
import { useContext } from 'preact/hooks'
import type { ConsoleState } from '../stores/console-state.ts'

export const ConsoleContext = createContext<ConsoleState | undefined>(undefined)

export function useConsole (): ConsoleState {
  const state = useContext(ConsoleContext)
  if (!state) throw new Error('nobody is signed in')
  return state
}
