/** Times that count by themselves: only their own text is drawn again. */
import { now } from '../stores/clock.ts'
import { formatAge, formatRemaining, formatTime } from '../text/format.ts'

export function Age ({ at }: { at: string }) {
  return <time dateTime={at} title={formatTime(at)}>{formatAge(at, now.value)}</time>
}

/** What is left until then, in another colour when it is little. */
export function Countdown ({ at }: { at: string }) {
  const isSoon = Date.parse(at) - now.value < 60_000
  return <time dateTime={at} title={formatTime(at)} class={isSoon ? 'soon' : undefined}>{formatRemaining(at, now.value)}</time>
}
