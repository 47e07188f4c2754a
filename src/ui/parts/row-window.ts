/** Long tables draw only the rows that can be seen, and some around them; empty ones above and below keep their room. */
import { useSignal } from '@preact/signals'
import type { RefObject } from 'preact'
import { useEffect, useRef } from 'preact/hooks'
import { visibleRange } from '../text/visible-range.ts'

/** As the style sheet has it, in pixels. */
const rowHeight = 54

export interface RowWindow<T> {
  /** To be given to the body of the table. */
  body: RefObject<HTMLTableSectionElement | null>
  shown: readonly T[]
  /** Heights of what is left out, in pixels. */
  above: number
  below: number
}

export function useRowWindow<T> (rows: readonly T[]): RowWindow<T> {
  const body = useRef<HTMLTableSectionElement | null>(null)
  const first = useSignal(0)
  const height = useSignal(innerHeight)
  useEffect(() => {
    const look = () => {
      const top = body.current?.getBoundingClientRect().top ?? 0
      // In steps of rows, so that most scrolling draws nothing.
      first.value = Math.max(0, Math.floor(-top / rowHeight / 10) * 10)
      height.value = innerHeight
    }
    look()
    // Scrolling does not bubble, but it is captured, whatever it is that scrolls.
    addEventListener('scroll', look, { capture: true, passive: true })
    addEventListener('resize', look)
    return () => {
      removeEventListener('scroll', look, { capture: true })
      removeEventListener('resize', look)
    }
  }, [])
  const { from, to } = visibleRange({ count: rows.length, first: first.value, visible: Math.ceil(height.value / rowHeight) })
  return { body, shown: rows.slice(from, to), above: from * rowHeight, below: (rows.length - to) * rowHeight }
}
