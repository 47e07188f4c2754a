/** Where one is on the page: the part of the address behind `#`. It never holds a token. */

export interface Place {
  /** `#/sandboxes/sbx_…/logs` → `['sandboxes', 'sbx_…', 'logs']`. */
  path: string[]
  query: URLSearchParams
}

export function parsePlace (hash: string): Place {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2)
  return { path: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) }
}

export function formatPlace (path: readonly string[], query: Readonly<Record<string, string>> = {}): string {
  const asked = new URLSearchParams(query).toString()
  return `#/${path.map(encodeURIComponent).join('/')}${asked === '' ? '' : `?${asked}`}`
}

function decode (part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}
