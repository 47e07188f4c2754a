/** The body of a long table. */
import type { ComponentChildren } from 'preact'
import { useRowWindow } from './row-window.ts'

export function WindowRows<T> ({ rows, children }: { rows: readonly T[], children: (row: T) => ComponentChildren }) {
  const { body, shown, above, below } = useRowWindow(rows)
  return (
    <tbody ref={body}>
      {above > 0 && <Room height={above} />}
      {shown.map(children)}
      {below > 0 && <Room height={below} />}
    </tbody>
  )
}

function Room ({ height }: { height: number }) {
  return <tr class='room' aria-hidden='true'><td style={{ height: `${height}px` }} /></tr>
}
