/** Dark or light: as the system says, until it is chosen. */
import { signal, effect } from '@preact/signals'

export type Theme = 'system' | 'light' | 'dark'

const key = 'berth.theme'
const systemDark = matchMedia('(prefers-color-scheme: dark)')
const stored = localStorage.getItem(key)

export const theme = signal<Theme>(stored === 'light' || stored === 'dark' ? stored : 'system')
const isSystemDark = signal(systemDark.matches)
systemDark.addEventListener('change', ({ matches }) => { isSystemDark.value = matches })

/** Whether the page is dark at this moment. */
export function isDark (): boolean {
  return theme.value === 'dark' || (theme.value === 'system' && isSystemDark.value)
}

/** The one that comes next when the button is pressed. */
export function nextTheme (): void {
  const order: Theme[] = ['system', 'light', 'dark']
  theme.value = order[(order.indexOf(theme.value) + 1) % order.length]!
}

/** Carries the choice to the page and keeps it. */
export function applyTheme (root: HTMLElement): void {
  effect(() => {
    root.dataset.theme = theme.value
    if (theme.value === 'system') localStorage.removeItem(key)
    else localStorage.setItem(key, theme.value)
  })
}
