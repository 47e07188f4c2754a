/**
 * Where the API is, with no slash at its end: beside the page. That is the root of a host, or a path of a gateway below which the host is
 * seen, as `https://gateway/v1/workers/hst_…/api`.
 */
export function apiBase (): string {
  return new URL('.', document.baseURI).href.replace(/\/$/, '')
}
