/** Screens of terminals, kept while the page is reloaded or another one is looked at: in this tab alone. */
import { screenKey } from '../api/session.ts'
import type { SavedScreen } from './terminal-screen.ts'

export function saveScreen (storage: Storage, terminalId: string, screen: SavedScreen | undefined): void {
  try {
    if (screen) storage.setItem(screenKey(terminalId), JSON.stringify(screen))
    else storage.removeItem(screenKey(terminalId))
  } catch {
    // There is no room: the daemon paints the screen, with less of what has scrolled off.
    storage.removeItem(screenKey(terminalId))
  }
}

/** The kept one, which is kept no longer. */
export function takeScreen (storage: Storage, terminalId: string): SavedScreen | undefined {
  const text = storage.getItem(screenKey(terminalId))
  storage.removeItem(screenKey(terminalId))
  try {
    const { offset, cols, rows, data } = JSON.parse(text ?? 'null') as Partial<SavedScreen>
    return typeof offset === 'number' && typeof cols === 'number' && typeof rows === 'number' && typeof data === 'string' ? { offset, cols, rows, data } : undefined
  } catch {
    return undefined
  }
}
