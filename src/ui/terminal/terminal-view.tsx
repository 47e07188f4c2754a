/** One terminal: its screen, what its connection is like, and what can be done with it. */
import { effect, useComputed, useSignal } from '@preact/signals'
import { useEffect, useMemo, useRef } from 'preact/hooks'
import type { TerminalRole } from '../../schemas/terminal.ts'
import { apiBase } from '../api/api-base.ts'
import { TerminalConnection } from '../api/terminal-connection.ts'
import { Button } from '../parts/button.tsx'
import { confirm } from '../parts/confirm.tsx'
import { useConsole } from '../parts/console-context.ts'
import { addNotice } from '../stores/notices.ts'
import { isDark } from '../stores/theme.ts'
import { formatBytes, formatEnd } from '../text/format.ts'
import { formatPlace } from '../text/place.ts'
import { saveScreen, takeScreen } from './saved-screens.ts'
import { TerminalScreen, openLink } from './terminal-screen.ts'
import { TerminalSearch } from './terminal-search.tsx'

const readerModeKey = 'berth.screenReader'
const resizeAfterMs = 80

export interface TerminalViewProps {
  sandboxId: string
  terminalId: string
  role: TerminalRole
  onDelete: () => void
}

export function TerminalView ({ sandboxId, terminalId, role, onDelete }: TerminalViewProps) {
  const { client, feed } = useConsole()
  const place = useRef<HTMLDivElement>(null)
  const toolbar = useRef<HTMLDivElement>(null)
  const title = useSignal('')
  const isSearching = useSignal(false)
  const isReaderMode = useSignal(localStorage.getItem(readerModeKey) === 'on')
  const saved = useMemo(() => takeScreen(sessionStorage, terminalId), [])
  const screen: TerminalScreen = useMemo(() => new TerminalScreen({
    isDark: isDark(),
    isReadOnly: role === 'read',
    screenReaderMode: isReaderMode.peek(),
    onInput: bytes => connection.send(bytes),
    onTitle: text => { title.value = text },
    onHiddenLink: address => void confirm({ title: 'Open this link?', text: address, action: 'Open', isDangerous: false }).then(isYes => { if (isYes) openLink(address) }),
    onSkip: bytes => addNotice('failed', `${formatBytes(bytes)} of output were left out: the screen goes on after them`),
    onCommand: command => {
      if (command === 'search') isSearching.value = true
      else toolbar.current?.querySelector('button')?.focus()
    },
  }), [])
  const connection = useMemo(() => new TerminalConnection({
    client, sandboxId, terminalId, role, sink: screen, since: saved?.offset, base: apiBase().replace(/^http/, 'ws'),
  }), [])

  useEffect(() => {
    screen.open(place.current!)
    if (saved) screen.paint(saved, saved.data)
    const forgetTheme = effect(() => screen.setTheme(isDark()))
    void connection.run()
    if (role === 'write') screen.xterm.focus()
    const forgetReady = effect(() => { if (connection.state.value === 'ended') screen.xterm.options.disableStdin = true })
    const stopFitting = keepFitting(place.current!, screen, connection)
    const keep = () => saveScreen(sessionStorage, terminalId, connection.shownOffset === undefined || connection.state.peek() === 'refused' ? undefined : screen.save(connection.shownOffset))
    addEventListener('pagehide', keep)
    return () => {
      removeEventListener('pagehide', keep)
      keep()
      stopFitting()
      forgetTheme()
      forgetReady()
      connection.close()
      screen.dispose()
    }
  }, [])
  useEffect(() => connection.retryNow(), [feed.generation.value])

  const name = useComputed(() => title.value || connection.terminal.value?.name || connection.terminal.value?.argv?.[0] || 'Shell')
  const state = connection.state.value
  const toggleReader = () => {
    isReaderMode.value = !isReaderMode.value
    localStorage.setItem(readerModeKey, isReaderMode.value ? 'on' : 'off')
    screen.setScreenReaderMode(isReaderMode.value)
  }
  const share = () => {
    const address = `${apiBase()}/${formatPlace(['sandboxes', sandboxId, 'terminals', terminalId], { role: 'read' })}`
    navigator.clipboard.writeText(address).then(() => addNotice('done', 'Copied a link for looking on; who opens it signs in with a token of their own'), () => addNotice('failed', `Copy this link: ${address}`))
  }
  return (
    <section class='terminal-box' aria-label={`Terminal ${name.value}`}>
      <div class='tools' ref={toolbar}>
        <strong class='ellipsis terminal-title'>{name.value}</strong>
        {role === 'read' && <span class='label'>Read only</span>}
        <span class='spring' />
        <Button kind='quiet' icon='search' label='Search in the terminal' isPressed={isSearching.value} onClick={() => { isSearching.value = !isSearching.value }} />
        <Button kind='quiet' icon='link' label='Copy a read-only link' onClick={share} />
        <Button kind='quiet' icon='eye' label='Screen reader mode' isPressed={isReaderMode.value} onClick={toggleReader} />
        {role === 'write' && <Button kind='danger' icon='trash' label='Delete terminal' onClick={onDelete} />}
      </div>
      <div role='status' aria-live='assertive'>
        {state === 'lost' && <div class='banner lost'><p><strong>Connection lost — reconnecting.</strong> The program runs on; what you type is not sent.</p><Button onClick={() => connection.retryNow()}>Try now</Button></div>}
        {state === 'refused' && <div class='banner lost'><p><strong>Not attached:</strong> {connection.message.value}</p></div>}
        {state === 'ended' && <div class='banner'><p>The terminal has ended: {formatEnd(connection.end.value ?? { reason: 'ended' })}.</p></div>}
        {state === 'attached' && connection.message.value !== '' && <div class='banner'><p>{connection.message.value}</p></div>}
      </div>
      {isSearching.value && <TerminalSearch screen={screen} onClose={() => { isSearching.value = false; screen.xterm.focus() }} />}
      <div class={`terminal-place ${state}`} data-state={state}><div ref={place} class='terminal-fit' /></div>
    </section>
  )
}

/** Lets the terminal have the size of its place, for who types: when that changes, and when one comes back to it. Answers how to stop. */
function keepFitting (element: HTMLElement, screen: TerminalScreen, connection: TerminalConnection): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined
  const fit = () => {
    const size = screen.wantedSize()
    const isEnded = connection.state.peek() !== 'attached'
    if (size === undefined || isEnded || (size.cols === screen.xterm.cols && size.rows === screen.xterm.rows)) return
    screen.resize(size)
    connection.resize(size)
  }
  const fitSoon = () => {
    clearTimeout(timer)
    timer = setTimeout(fit, resizeAfterMs)
  }
  const watcher = new ResizeObserver(fitSoon)
  watcher.observe(element)
  element.addEventListener('focusin', fitSoon)
  return () => {
    clearTimeout(timer)
    watcher.disconnect()
    element.removeEventListener('focusin', fitSoon)
  }
}
