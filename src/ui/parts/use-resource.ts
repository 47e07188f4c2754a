/** Something that is read from the API when a part is shown, and again when the connection was lost or the part asks. */
import { useSignal, type Signal } from '@preact/signals'
import { useCallback, useEffect } from 'preact/hooks'
import { isAbort, messageOf } from '../api/api-client.ts'
import { useConsole } from './console-context.ts'

export interface Resource<T> {
  value: Signal<T | undefined>
  error: Signal<string | undefined>
  reload: () => void
}

/** `key` names what is read: another one is read at once. `everyMs`: read again and again while the page is looked at. */
export function useResource<T> (key: string, read: (signal: AbortSignal) => Promise<T>, everyMs?: number): Resource<T> {
  const { feed } = useConsole()
  const value = useSignal<T | undefined>(undefined)
  const error = useSignal<string | undefined>(undefined)
  const turn = useSignal(0)
  const generation = feed.generation.value
  const isOnline = feed.state.value !== 'lost'

  useEffect(() => { value.value = undefined }, [key])
  useEffect(() => {
    const leaving = new AbortController()
    let timer: ReturnType<typeof setTimeout> | undefined
    const look = async (): Promise<void> => {
      try {
        if (!document.hidden || value.peek() === undefined) {
          value.value = await read(leaving.signal)
          error.value = undefined
        }
      } catch (problem) {
        if (!isAbort(problem)) error.value = messageOf(problem)
      }
      if (everyMs !== undefined && !leaving.signal.aborted) timer = setTimeout(() => void look(), everyMs)
    }
    if (isOnline) void look()
    return () => {
      leaving.abort()
      clearTimeout(timer)
    }
  }, [key, generation, isOnline, turn.value])

  const reload = useCallback(() => { turn.value++ }, [])
  return { value, error, reload }
}
