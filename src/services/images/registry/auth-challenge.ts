/** One way in which a registry lets itself be convinced (RFC 9110, WWW-Authenticate). */
export interface AuthChallenge {
  /** Lower case: `bearer`, `basic`. */
  scheme: string
  /** Names in lower case. */
  params: ReadonlyMap<string, string>
}

const maxHeaderLength = 16 * 1024
const nextToken = /[\s,]*([\w!#$%&'*+.^`|~-]+)/y
const nextValue = /\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))/y

/** Reads the header of a 401. Never fails: what cannot be read ends the list. */
export function parseChallenges (header: string | string[] | undefined): AuthChallenge[] {
  const text = (Array.isArray(header) ? header.join(', ') : header ?? '').slice(0, maxHeaderLength)
  const challenges: Array<{ scheme: string, params: Map<string, string> }> = []
  for (let at = 0; at < text.length;) {
    nextToken.lastIndex = at
    const token = nextToken.exec(text)
    if (token?.[1] === undefined) break
    at = nextValue.lastIndex = nextToken.lastIndex
    const value = nextValue.exec(text)
    // A word without a value begins the next challenge.
    if (!value) {
      challenges.push({ scheme: token[1].toLowerCase(), params: new Map() })
      continue
    }
    at = nextValue.lastIndex
    challenges.at(-1)?.params.set(token[1].toLowerCase(), value[1]?.replace(/\\(.)/g, '$1') ?? value[2] ?? '')
  }
  return challenges
}
