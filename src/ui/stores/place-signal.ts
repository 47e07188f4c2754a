/** Where one is, as a signal. */
import { signal } from '@preact/signals'
import { formatPlace, parsePlace } from '../text/place.ts'

export const place = signal(parsePlace(location.hash))

addEventListener('hashchange', () => { place.value = parsePlace(location.hash) })

/** Goes elsewhere on the page. */
export function goTo (path: readonly string[], query?: Record<string, string>): void {
  location.hash = formatPlace(path, query)
}
