/** The token of who is signed in: kept for this tab, or for good where that was asked for. Never in an address, never in a cookie. */

const key = 'berth.token'
const screensPrefix = 'berth.screen.'

export type TokenStorage = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>

export interface TokenPlaces {
  tab: TokenStorage
  browser: TokenStorage
}

export function loadToken ({ tab, browser }: TokenPlaces): string | undefined {
  return tab.getItem(key) ?? browser.getItem(key) ?? undefined
}

export function saveToken ({ tab, browser }: TokenPlaces, token: string, keep: boolean): void {
  const [used, other] = keep ? [browser, tab] : [tab, browser]
  other.removeItem(key)
  used.setItem(key, token)
}

export function forgetToken ({ tab, browser }: TokenPlaces): void {
  tab.removeItem(key)
  browser.removeItem(key)
}

/** What may stand in an Authorization header; pasted tokens often bring blanks along. */
export function cleanToken (text: string): string | undefined {
  const token = text.trim().replace(/^Bearer\s+/i, '')
  return /^[A-Za-z0-9._~+/=-]{1,512}$/.test(token) ? token : undefined
}

/** Where the screen of a terminal is kept while the page is reloaded. */
export const screenKey = (terminalId: string) => `${screensPrefix}${terminalId}`

/** Forgets every screen that was kept. */
export function forgetScreens (storage: Storage): void {
  for (const name of Object.keys(storage)) if (name.startsWith(screensPrefix)) storage.removeItem(name)
}
