/** Says that the daemon does not answer, for as long as it does not, and once that it is back. */
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { Button } from './button.tsx'
import { useConsole } from './console-context.ts'

const shownBackMs = 4000

export function ConnectionBanner () {
  const { feed } = useConsole()
  const isBack = useSignal(false)
  const generation = feed.generation.value
  useEffect(() => {
    if (generation === 0) return
    isBack.value = true
    const timer = setTimeout(() => { isBack.value = false }, shownBackMs)
    return () => clearTimeout(timer)
  }, [generation])
  useEffect(() => {
    const retry = () => { if (!document.hidden) feed.retryNow() }
    addEventListener('online', retry)
    document.addEventListener('visibilitychange', retry)
    return () => {
      removeEventListener('online', retry)
      document.removeEventListener('visibilitychange', retry)
    }
  }, [feed])

  const isLost = feed.state.value === 'lost'
  return (
    <div role='status' aria-live='assertive'>
      {isLost && (
        <div class='banner lost'>
          <p><strong>Connection to the daemon lost — reconnecting.</strong> What you see may be out of date; sandboxes run on without it.</p>
          <Button onClick={() => feed.retryNow()}>Try now</Button>
        </div>
      )}
      {!isLost && isBack.value && <div class='banner back'><p>Connected again.</p></div>}
    </div>
  )
}
