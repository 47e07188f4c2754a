/** What a program in a sandbox says of itself, made fit to be shown outside of its own frame. It is only ever shown as text. */

const longest = 80
// Control characters, and those that turn or hide the text around them.
// eslint-disable-next-line no-control-regex
const invisible = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g

/** The title that a terminal's program has asked for, on one line, of bounded length. */
export function sanitizeTitle (title: string): string {
  const clean = title.replace(invisible, '').trim()
  return clean.length > longest ? `${clean.slice(0, longest - 1)}…` : clean
}

/** The address of a link in a terminal, if it is one that may be opened: http or https, without a name and password in it. */
export function linkTarget (text: string): string | undefined {
  if (!URL.canParse(text)) return undefined
  const url = new URL(text)
  const isWeb = url.protocol === 'http:' || url.protocol === 'https:'
  return isWeb && url.username === '' && url.password === '' ? url.href : undefined
}

/** A name under which a file can be saved: its last part, without what file systems or shells make something of. */
export function safeFileName (name: string): string {
  const last = name.split('/').filter(Boolean).at(-1) ?? ''
  const clean = last.replace(invisible, '').replace(/[\\:*?"<>|]/g, '_').replace(/^\.+/, '_').slice(0, 200)
  return clean === '' ? 'download' : clean
}

// Colours and cursor movements, which a log shows as rubbish.
// eslint-disable-next-line no-control-regex
const escapes = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g

/** A line of a log without escape sequences; a progress bar's line is what it ended as. */
export function plainLine (text: string): string {
  const bare = text.includes('\u001b') ? text.replace(escapes, '') : text
  return bare.includes('\r') ? bare.replace(/\r+$/, '').split('\r').at(-1)! : bare
}
