/** Keys that lead around: they are for who is not typing. */
import { useEffect } from 'preact/hooks'
import { Dialog } from './dialog.tsx'

const destinations: Readonly<Record<string, string>> = { s: 'sandboxes', t: 'tasks', i: 'images', e: 'events', h: 'host' }

const listed: readonly (readonly [keys: string[], what: string])[] = [
  [['g', 's'], 'Sandboxes'],
  [['g', 't'], 'Tasks'],
  [['g', 'i'], 'Images'],
  [['g', 'e'], 'Events'],
  [['g', 'h'], 'Host'],
  [['/'], 'Filter or search'],
  [['n'], 'Create'],
  [['Ctrl', 'Shift', 'F'], 'Search in a terminal'],
  [['Ctrl', 'Shift', 'C'], 'Copy from a terminal'],
  [['Shift', 'F6'], 'Leave a terminal'],
  [['?'], 'This list'],
]

const chordMs = 1500

export function useShortcuts ({ onHelp, goTo }: { onHelp: () => void, goTo: (path: string) => void }): void {
  useEffect(() => {
    let isGoing = false
    let timer: ReturnType<typeof setTimeout> | undefined
    const onKey = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector('dialog[open]')) return
      const destination = isGoing ? destinations[event.key] : undefined
      isGoing = event.key === 'g'
      clearTimeout(timer)
      if (isGoing) timer = setTimeout(() => { isGoing = false }, chordMs)
      if (destination !== undefined) goTo(destination)
      else if (event.key === '?') onHelp()
      else if (event.key === '/' || event.key === 'n') press(event, document.querySelector<HTMLElement>(`main [data-shortcut="${event.key}"]`))
    }
    document.addEventListener('keydown', onKey)
    return () => {
      document.removeEventListener('keydown', onKey)
      clearTimeout(timer)
    }
  }, [])
}

function press (event: KeyboardEvent, target: HTMLElement | null): void {
  if (!target) return
  event.preventDefault()
  if (target instanceof HTMLInputElement) target.focus()
  else target.querySelector('button')?.click()
}

function isTyping (target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
}

export function ShortcutsDialog ({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title='Keyboard shortcuts' onClose={onClose}>
      <dl class='keys'>
        {listed.map(([keys, what]) => <div key={what}><dt>{keys.map(key => <kbd key={key}>{key}</kbd>)}</dt><dd>{what}</dd></div>)}
      </dl>
    </Dialog>
  )
}
