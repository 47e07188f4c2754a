/**
 * A name as a terminal may have it: what moves the cursor, colours or hides text, or ends the line is written as an escape, like `\n` and `\x1b`.
 * A backslash is doubled where there is such a thing, so that it can be told.
 */
export function printable (name: string): string {
  if (!unprintable.test(name)) return name
  return name.replaceAll('\\', '\\\\').replaceAll(everyUnprintable, character => {
    const code = character.codePointAt(0) ?? 0
    return short[character] ?? (code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`)
  })
}

/** The same in quotes, for messages. */
export function quoteName (name: string): string {
  return `'${printable(name)}'`
}

/** Control characters, line and paragraph separators, what turns the direction of text, what takes no room, and halves of characters. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u
const everyUnprintable = new RegExp(unprintable, 'gu')
const short: Readonly<Record<string, string>> = { '\n': '\\n', '\t': '\\t', '\r': '\\r', '\0': '\\0' }
