/** A log: live, searched, filtered by stream. What is held is bounded; what is drawn is what can be seen. */
import { useSignal } from '@preact/signals'
import { useEffect, useMemo, useRef } from 'preact/hooks'
import { isAbort, messageOf, type Query } from '../api/api-client.ts'
import { followLog } from '../api/log-feed.ts'
import { LogBuffer, type LogLine } from '../stores/log-buffer.ts'
import { formatClock, formatEnd, formatTime } from '../text/format.ts'
import { Button } from './button.tsx'
import { useConsole } from './console-context.ts'
import { Icon } from './icon.tsx'
import { saveAnswer } from './save-answer.ts'
import { Problem } from './states.tsx'

export interface LogViewProps {
  /** Of the log, as `/v1/tasks/tsk_…/logs`. */
  path: string
  query?: Query
  /** Under which name it is saved. */
  fileName: string
}

const lineHeight = 20
const spareLines = 20
const firstLines = 5000

export function LogView ({ path, query = {}, fileName }: LogViewProps) {
  const { client } = useConsole()
  const stream = useSignal('')
  const search = useSignal('')
  const isFollowing = useSignal(true)
  const isWrapped = useSignal(false)
  const hasTimes = useSignal(false)
  const status = useSignal<'connecting' | 'live' | 'waiting' | 'ended'>('connecting')
  const ending = useSignal('')
  const problem = useSignal<string | undefined>(undefined)
  const version = useSignal(0)
  const key = `${path} ${JSON.stringify(query)} ${stream.value}`
  const buffer = useMemo(() => new LogBuffer(), [key])

  useEffect(() => {
    const leaving = new AbortController()
    let frame: number | undefined
    const drawSoon = () => { frame ??= requestAnimationFrame(() => { frame = undefined; version.value++ }) }
    status.value = 'connecting'
    problem.value = undefined
    followLog(client, {
      path,
      query: { ...query, tail: firstLines, stream: stream.value === '' ? undefined : stream.value },
      signal: leaving.signal,
      onRecords: records => { buffer.add(records); drawSoon() },
      onState: state => { status.value = state },
    }).then(end => {
      if (end?.reason !== undefined) ending.value = formatEnd({ reason: end.reason, exitCode: end.exitCode })
    }, error => { if (!isAbort(error)) problem.value = messageOf(error) })
    return () => {
      leaving.abort()
      if (frame !== undefined) cancelAnimationFrame(frame)
    }
  }, [client, key])

  const wanted = search.value.toLowerCase()
  // The buffer's own list grows in place; a part that is given the same list as before is not drawn again.
  const lines = useMemo(() => buffer.lines.filter(({ text }) => wanted === '' || text.toLowerCase().includes(wanted)), [buffer, version.value, wanted])
  const words = { connecting: 'Connecting…', live: 'Live', waiting: 'Connection lost — reconnecting', ended: ending.value === '' ? 'Complete' : `Complete: ${ending.value}` }
  return (
    <section class='log' aria-label='Log'>
      <div class='tools'>
        <label class='search'>
          <Icon name='search' />
          <input type='search' aria-label='Search the log' placeholder='Search the log' value={search.value} onInput={event => { search.value = event.currentTarget.value }} spellcheck={false} data-shortcut='/' />
        </label>
        {wanted !== '' && <span class='muted' role='status'>{lines.length === 1 ? '1 line' : `${lines.length} lines`}</span>}
        <select class='compact' aria-label='Stream' value={stream.value} onChange={event => { stream.value = event.currentTarget.value }}>
          <option value=''>stdout and stderr</option><option value='stdout'>stdout</option><option value='stderr'>stderr</option>
        </select>
        <span class={`log-status ${status.value}`} role='status'>{words[status.value]}</span>
        <span class='spring' />
        <Button kind='quiet' isPressed={hasTimes.value} onClick={() => { hasTimes.value = !hasTimes.value }}>Times</Button>
        <Button kind='quiet' isPressed={isWrapped.value} onClick={() => { isWrapped.value = !isWrapped.value }}>Wrap</Button>
        <Button kind='quiet' isPressed={isFollowing.value} onClick={() => { isFollowing.value = !isFollowing.value }}>Follow</Button>
        <Button kind='quiet' icon='download' onClick={() => void saveAnswer(client, path, { ...query, format: 'text' }, fileName)}>Download</Button>
      </div>
      {problem.value !== undefined && <Problem text={problem.value} />}
      <Lines lines={lines} wanted={wanted} isFollowing={isFollowing} isWrapped={isWrapped.value} hasTimes={hasTimes.value} dropped={buffer.dropped} />
    </section>
  )
}

function Lines ({ lines, wanted, isFollowing, isWrapped, hasTimes, dropped }: {
  lines: readonly LogLine[], wanted: string, isFollowing: { value: boolean }, isWrapped: boolean, hasTimes: boolean, dropped: number
}) {
  const box = useRef<HTMLDivElement>(null)
  const top = useSignal(0)
  const height = useSignal(600)
  useEffect(() => {
    const watcher = new ResizeObserver(() => { height.value = box.current?.clientHeight ?? 600 })
    watcher.observe(box.current!)
    return () => watcher.disconnect()
  }, [])
  useEffect(() => {
    if (isFollowing.value && box.current) box.current.scrollTop = box.current.scrollHeight
  })
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!
    top.value = scrollTop
    // Who scrolls up reads; who comes back to the end follows.
    isFollowing.value = scrollTop + clientHeight >= scrollHeight - lineHeight
  }
  // Wrapped lines have heights of their own, so the newest are drawn, and all of those.
  const first = isWrapped ? Math.max(0, lines.length - 2000) : Math.max(0, Math.floor(top.value / lineHeight) - spareLines)
  const last = isWrapped ? lines.length : Math.ceil((top.value + height.value) / lineHeight) + spareLines
  const shown = lines.slice(first, last)
  return (
    <div class={isWrapped ? 'log-lines wrapped' : 'log-lines'} ref={box} onScroll={onScroll} role='log' aria-live='off' tabIndex={0} aria-label='Lines of the log'>
      {dropped > 0 && first === 0 && <p class='muted'>{dropped} earlier lines are not held here any more; the download has them.</p>}
      {lines.length === 0 && <p class='muted'>{wanted === '' ? 'Nothing has been written.' : 'No line matches.'}</p>}
      <div style={isWrapped ? undefined : { height: `${lines.length * lineHeight}px` }}>
        <div style={isWrapped ? undefined : { transform: `translateY(${first * lineHeight}px)` }}>
          {shown.map(line => (
            <div key={line.number} class={`log-line ${line.stream}`}>
              {hasTimes && <time dateTime={line.at} title={formatTime(line.at)}>{formatClock(line.at)}</time>}
              <span>{wanted === '' ? line.text : <Marked text={line.text} wanted={wanted} />}</span>
            </div>
          ))}
        </div>
      </div>
    </div>
  )
}

function Marked ({ text, wanted }: { text: string, wanted: string }) {
  const at = text.toLowerCase().indexOf(wanted)
  return at === -1 ? <>{text}</> : <>{text.slice(0, at)}<mark>{text.slice(at, at + wanted.length)}</mark>{text.slice(at + wanted.length)}</>
}
