/** Times that count by themselves: only their own text is drawn again, and only when it reads otherwise. */
import { useComputed } from '@preact/signals'
import { now } from '../stores/clock.ts'
import { formatAge, formatRemaining, formatTime } from '../text/format.ts'

export function Age ({ at }: { at: string }) {
  const text = useComputed(() => formatAge(at, now.value))
  return <time dateTime={at} title={formatTime(at)}>{text}</time>
}

/** What is left until then, in another colour when it is little. */
export function Countdown ({ at }: { at: string }) {
  return <Remaining key={at} at={at} />
}

function Remaining ({ at }: { at: string }) {
  const text = useComputed(() => formatRemaining(at, now.value))
  const tone = useComputed(() => Date.parse(at) - now.value < 60_000 ? 'soon' : undefined)
  return <time dateTime={at} title={formatTime(at)} class={tone.value}>{text}</time>
}
