/** The present, once a second, for whatever counts. It stands still while nobody looks at the page. */
import { signal } from '@preact/signals'

export const now = signal(Date.now())

/** Keeps `now` going for as long as the page is there. */
export function startClock (page: Document): void {
  setInterval(() => { if (!page.hidden) now.value = Date.now() }, 1000)
  page.addEventListener('visibilitychange', () => { now.value = Date.now() })
}
