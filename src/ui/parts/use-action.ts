/** Something that is done by pressing a button: at most once at a time, and what came of it is said. */
import { useSignal, type Signal } from '@preact/signals'
import { messageOf } from '../api/api-client.ts'
import { addNotice } from '../stores/notices.ts'

export interface Action {
  isBusy: Signal<boolean>
  /** Resolves to whether it was done; failures are shown. */
  run: (work: () => Promise<unknown>, done?: string) => Promise<boolean>
}

export function useAction (): Action {
  const isBusy = useSignal(false)
  const run = async (work: () => Promise<unknown>, done?: string): Promise<boolean> => {
    if (isBusy.peek()) return false
    isBusy.value = true
    try {
      await work()
      if (done !== undefined) addNotice('done', done)
      return true
    } catch (error) {
      addNotice('failed', messageOf(error))
      return false
    } finally {
      isBusy.value = false
    }
  }
  return { isBusy, run }
}
