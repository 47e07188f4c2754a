/** What is shown in the place of something: that there is none, that it is on its way, that it could not be had. */
import type { ComponentChildren } from 'preact'
import { Button } from './button.tsx'
import { Icon, type IconName } from './icon.tsx'

export function Empty ({ icon, title, children }: { icon: IconName, title: string, children?: ComponentChildren }) {
  return <div class='empty'><Icon name={icon} /><h3>{title}</h3>{children}</div>
}

export function Loading ({ what }: { what: string }) {
  return <p class='loading' role='status'><i aria-hidden='true' />Loading {what}…</p>
}

export function Problem ({ text, onRetry }: { text: string, onRetry?: () => void }) {
  return <div class='problem' role='alert'><p>{text}</p>{onRetry && <Button icon='refresh' onClick={onRetry}>Try again</Button>}</div>
}
