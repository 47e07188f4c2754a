/** The body of a long table. */
import type { ComponentChildren } from 'preact'
import { useRowWindow } from './row-window.ts'

export function WindowRows<T> ({ rows, columns, children }: { rows: readonly T[], columns: number, children: (row: T) => ComponentChildren }) {
  const { body, shown, above, below } = useRowWindow(rows)
  return (
    <tbody ref={body}>
      {above > 0 && <Room height={above} columns={columns} />}
      {shown.map(children)}
      {below > 0 && <Room height={below} columns={columns} />}
    </tbody>
  )
}

function Room ({ height, columns }: { height: number, columns: number }) {
  return <tr class='room' aria-hidden='true'><td colSpan={columns} style={{ height: `${height}px` }} /></tr>
}
