/** Rows under headings, in columns as wide as their widest cell; the last one is not padded. */
export function formatTable (headings: string[], rows: string[][]): string {
  const all = [headings, ...rows]
  const widths = headings.map((_heading, column) => Math.max(...all.map(row => width(row[column] ?? ''))))
  return all.map(row => row
    .map((cell, column) => column === row.length - 1 ? cell : cell + ' '.repeat((widths[column] ?? 0) - width(cell)))
    .join('   ')
    .trimEnd() + '\n').join('')
}

/** The text on one line, cut to a number of characters; control characters cannot reach the terminal. */
export function shorten (text: string, limit: number): string {
  // eslint-disable-next-line no-control-regex
  const flat = text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
  const characters = [...flat]
  return characters.length <= limit ? flat : `${characters.slice(0, limit - 1).join('')}…`
}

function width (text: string): number {
  return [...text].length
}
