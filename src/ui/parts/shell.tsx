/** The frame around every page: where one may go, whether the daemon is there, and the keys that lead around. */
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { EventsPage } from '../pages/events-page.tsx'
import { HostPage } from '../pages/host-page.tsx'
import { ImagesPage } from '../pages/images-page.tsx'
import { SandboxPage } from '../pages/sandbox-page.tsx'
import { SandboxesPage } from '../pages/sandboxes-page.tsx'
import { TaskPage } from '../pages/task-page.tsx'
import { TasksPage } from '../pages/tasks-page.tsx'
import { goTo, place } from '../stores/place-signal.ts'
import { nextTheme, theme } from '../stores/theme.ts'
import { Button } from './button.tsx'
import { ConnectionBanner } from './connection-banner.tsx'
import { Icon, type IconName } from './icon.tsx'
import { Empty } from './states.tsx'
import { ShortcutsDialog, useShortcuts } from './shortcuts.tsx'

interface Section {
  path: string
  name: string
  icon: IconName
}

const sections: readonly Section[] = [
  { path: 'sandboxes', name: 'Sandboxes', icon: 'sandboxes' },
  { path: 'tasks', name: 'Tasks', icon: 'tasks' },
  { path: 'images', name: 'Images', icon: 'images' },
  { path: 'events', name: 'Events', icon: 'events' },
  { path: 'host', name: 'Host', icon: 'host' },
]

const themeIcons = { system: 'half', light: 'sun', dark: 'moon' } as const

export function Shell ({ onSignOut }: { onSignOut: () => void }) {
  const [current = 'sandboxes'] = place.value.path
  const isHelping = useSignal(false)
  const main = useRef<HTMLElement>(null)
  useShortcuts({ onHelp: () => { isHelping.value = true }, goTo: path => goTo([path]) })
  useEffect(() => {
    const name = sections.find(({ path }) => path === current)?.name
    const id = place.value.path[1]
    document.title = [id, name, 'Berth'].filter(Boolean).join(' · ')
  }, [place.value])

  return (
    <div class='shell'>
      <a class='skip' href='#main' onClick={event => { event.preventDefault(); main.current?.focus() }}>Skip to content</a>
      <nav class='side' aria-label='Console'>
        <a class='brand' href='#/sandboxes'><img src='console/icon.svg' alt='' width='22' height='22' />Berth</a>
        <ul>
          {sections.map(({ path, name, icon }) => (
            <li key={path}><a href={`#/${path}`} aria-current={path === current ? 'page' : undefined}><Icon name={icon} /><span>{name}</span></a></li>
          ))}
        </ul>
        <div class='side-end'>
          <Button kind='quiet' icon='help' label='Keyboard shortcuts' onClick={() => { isHelping.value = true }} />
          <Button kind='quiet' icon={themeIcons[theme.value]} label={`Theme: ${theme.value}`} onClick={nextTheme} />
          <Button kind='quiet' icon='leave' label='Sign out' onClick={onSignOut} />
        </div>
      </nav>
      <div class='content'>
        <ConnectionBanner />
        <main id='main' ref={main} tabIndex={-1}><Page path={place.value.path} /></main>
      </div>
      {isHelping.value && <ShortcutsDialog onClose={() => { isHelping.value = false }} />}
    </div>
  )
}

function Page ({ path: [section = 'sandboxes', id, ...rest] }: { path: string[] }) {
  switch (section) {
    case 'sandboxes': return id === undefined ? <SandboxesPage /> : <SandboxPage key={id} id={id} path={rest} />
    case 'tasks': return id === undefined ? <TasksPage /> : <TaskPage key={id} id={id} />
    case 'images': return <ImagesPage />
    case 'events': return <EventsPage />
    case 'host': return <HostPage />
    default: return <Empty icon='help' title='There is no such page'><p><a href='#/sandboxes'>Go to the sandboxes</a></p></Empty>
  }
}
