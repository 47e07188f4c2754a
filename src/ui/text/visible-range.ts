/** Which rows of a long table are drawn. */

// So few are drawn whole: that way the browser's own search finds them all.
const drawnWhole = 120
const spare = 20

/** From the first on, up to but without the last. `first` is the row at the top of what is seen, `visible` how many are seen at once. */
export function visibleRange ({ count, first, visible }: { count: number, first: number, visible: number }): { from: number, to: number } {
  if (count <= drawnWhole) return { from: 0, to: count }
  const from = Math.min(Math.max(0, first - spare), Math.max(0, count - visible))
  return { from, to: Math.min(count, from + visible + 2 * spare + 10) }
}
