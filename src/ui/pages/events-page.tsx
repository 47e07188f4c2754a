/** What happens on the host, the newest first, while it happens. */
import { useComputed, useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { Event, EventPage } from '../../schemas/event.ts'
import { findLastSeq, mergeEvents } from '../api/event-history.ts'
import { isAbort, messageOf } from '../api/api-client.ts'
import { useConsole } from '../parts/console-context.ts'
import { Icon } from '../parts/icon.tsx'
import { Empty, Loading, Problem } from '../parts/states.tsx'
import { describeEvent } from '../text/event-text.ts'
import { formatMoment, formatTime } from '../text/format.ts'

const mostShown = 500

export function EventsPage () {
  const { client, feed } = useConsole()
  const older = useSignal<readonly Event[] | undefined>(undefined)
  const problem = useSignal<string | undefined>(undefined)
  const text = useSignal('')
  useEffect(() => {
    const leaving = new AbortController()
    const page = (cursor: number, limit: number) => client.get<EventPage>('/v1/events', { cursor, limit }, leaving.signal)
    const read = async () => {
      const last = await findLastSeq(async seq => (await page(seq, 1)).items[0])
      older.value = (await page(Math.max(0, last - mostShown), mostShown)).items
      problem.value = undefined
    }
    read().catch((error: unknown) => { if (!isAbort(error)) problem.value = messageOf(error) })
    return () => leaving.abort()
  }, [client, feed.generation.value])

  const all = useComputed(() => mergeEvents(older.value ?? [], feed.events.value, mostShown).reverse())
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean)
  const shown = all.value.filter(event => {
    const haystack = JSON.stringify(event).toLowerCase()
    return words.every(word => haystack.includes(word))
  })
  return (
    <>
      <header class='page-head'>
        <h1>Events</h1>
        <div class='tools'>
          <label class='search'><Icon name='search' /><input type='search' aria-label='Filter events' placeholder='Filter events' value={text.value} onInput={event => { text.value = event.currentTarget.value }} spellcheck={false} data-shortcut='/' /></label>
        </div>
      </header>
      {problem.value !== undefined && <Problem text={problem.value} />}
      {older.value === undefined && problem.value === undefined && <Loading what='events' />}
      {older.value !== undefined && shown.length === 0 && <Empty icon='events' title={all.value.length === 0 ? 'Nothing has happened yet' : 'No event matches'} />}
      {shown.length > 0 && (
        <div class='table-box'>
          <table class='table events'>
            <thead><tr><th scope='col'>Time</th><th scope='col'>Event</th><th scope='col'>About</th><th scope='col' class='wide-only'>What</th></tr></thead>
            <tbody>
              {shown.map(event => (
                <tr key={event.seq}>
                  <td class='mono'><time dateTime={event.at} title={formatTime(event.at)}>{formatMoment(event.at, Date.now())}</time></td>
                  <td>{event.type}<span class='under muted narrow-only'>{describeEvent(event)}</span></td>
                  <td class='mono'><span class='ellipsis'><Subject event={event} /></span></td>
                  <td class='wide-only'>{describeEvent(event)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  )
}

function Subject ({ event: { type, sandboxId, taskId, data } }: { event: Event }) {
  if (taskId !== undefined && type.startsWith('task.')) return <a href={`#/tasks/${taskId}`}>{taskId}</a>
  if (sandboxId !== undefined) return <a href={`#/sandboxes/${sandboxId}`}>{sandboxId}</a>
  return <>{typeof data['reference'] === 'string' ? data['reference'] : ''}</>
}
