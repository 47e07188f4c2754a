/** Command lines as people write them, and the argv that they stand for. No shell is involved on either side. */

/**
 * Splits by blanks, with '…', "…" and \ as in sh; nothing is expanded.
 *
 * @throws Error where a quote is not closed.
 */
export function parseCommandLine (line: string): string[] {
  const words: string[] = []
  let word: string | undefined
  let quote: string | undefined
  for (let at = 0; at < line.length; at++) {
    const char = line[at]!
    if (quote !== undefined) {
      if (char === quote) quote = undefined
      else if (char === '\\' && quote === '"' && /["\\$`]/.test(line[at + 1] ?? '')) word += line[++at]!
      else word += char
    } else if (char === '"' || char === "'") {
      quote = char
      word ??= ''
    } else if (char === '\\' && at + 1 < line.length) {
      word = (word ?? '') + line[++at]!
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word)
      word = undefined
    } else {
      word = (word ?? '') + char
    }
  }
  if (quote !== undefined) throw new Error(`a quote (${quote}) is not closed`)
  if (word !== undefined) words.push(word)
  return words
}

/** The way back: what can be pasted into a shell. */
export function formatCommandLine (argv: readonly string[]): string {
  return argv.map(word => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`).join(' ')
}
