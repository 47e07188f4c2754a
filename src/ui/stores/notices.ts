/** Short messages at the edge of the page: that something was done, or why not. */
import { signal } from '@preact/signals'

export interface Notice {
  id: number
  kind: 'done' | 'failed'
  text: string
}

const shownMs = { done: 5000, failed: 12_000 }
const most = 4

export const notices = signal<readonly Notice[]>([])
let next = 1

export function addNotice (kind: Notice['kind'], text: string): void {
  const id = next++
  notices.value = [...notices.value.slice(1 - most), { id, kind, text }]
  setTimeout(() => dropNotice(id), shownMs[kind])
}

export function dropNotice (id: number): void {
  notices.value = notices.value.filter(notice => notice.id !== id)
}
