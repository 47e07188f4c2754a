/** What a list is narrowed by: words, and a status. */
import type { Signal } from '@preact/signals'
import { Icon } from './icon.tsx'

export interface FilterBarProps {
  /** What is looked through, such as `sandboxes`. */
  what: string
  text: Signal<string>
  status: Signal<string>
  statuses: readonly string[]
}

export function FilterBar ({ what, text, status, statuses }: FilterBarProps) {
  return (
    <>
      <label class='search'>
        <Icon name='search' />
        <input
          type='search' value={text.value} onInput={event => { text.value = event.currentTarget.value }} aria-label={`Filter ${what}`} placeholder={`Filter ${what}`}
          spellcheck={false} data-shortcut='/'
        />
      </label>
      <select class='compact' aria-label='Status' value={status.value} onChange={event => { status.value = event.currentTarget.value }}>
        <option value='all'>All statuses</option>
        <option value='active'>Active</option>
        <option value='ended'>Ended</option>
        {statuses.map(one => <option key={one} value={one}>{one}</option>)}
      </select>
    </>
  )
}
