/** Looks for text in a terminal's screen and in what has scrolled off it. */
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { Button } from '../parts/button.tsx'
import type { TerminalScreen } from './terminal-screen.ts'

const decorations = { matchBackground: '#b58900', activeMatchBackground: '#cb4b16', matchOverviewRuler: '#b58900', activeMatchColorOverviewRuler: '#cb4b16' }

export function TerminalSearch ({ screen, onClose }: { screen: TerminalScreen, onClose: () => void }) {
  const text = useSignal('')
  const found = useSignal('')
  const input = useRef<HTMLInputElement>(null)
  useEffect(() => {
    input.current!.focus()
    const listening = screen.search.onDidChangeResults(({ resultIndex, resultCount }) => { found.value = resultCount === 0 ? 'no match' : `${resultIndex + 1} of ${resultCount}` })
    return () => {
      listening.dispose()
      screen.search.clearDecorations()
    }
  }, [screen])
  const next = () => screen.search.findNext(text.value, { decorations })
  const previous = () => screen.search.findPrevious(text.value, { decorations })
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === 'Escape') onClose()
    else if (event.key === 'Enter') event.shiftKey ? previous() : next()
  }
  const onInput = (value: string) => {
    text.value = value
    if (value === '') {
      found.value = ''
      screen.search.clearDecorations()
    } else screen.search.findNext(value, { incremental: true, decorations })
  }
  return (
    <div class='tools terminal-search' role='search'>
      <input ref={input} type='search' class='compact' aria-label='Search in the terminal' placeholder='Search' value={text.value} onInput={event => onInput(event.currentTarget.value)} onKeyDown={onKeyDown} spellcheck={false} />
      <span class='muted' role='status'>{found.value}</span>
      <Button kind='quiet' icon='up' label='Previous match' onClick={previous} />
      <Button kind='quiet' icon='down' label='Next match' onClick={next} />
      <Button kind='quiet' icon='close' label='Close the search' onClick={onClose} />
    </div>
  )
}
