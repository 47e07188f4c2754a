import type { Sandbox } from '../../schemas/sandbox.ts'

/**
 * A sandbox as a host tells of it, as far as a gateway relies on it: it may be of a later version, and it may lie.
 * Undefined for what is no sandbox.
 */
export function readHostSandbox (text: string): Sandbox | undefined {
  let found: unknown
  try {
    found = JSON.parse(text)
  } catch {
    return undefined
  }
  if (!isObject(found)) return undefined
  const { id, status, createdAt, labels } = found
  const isKnown = typeof id === 'string' && /^sbx_[a-z0-9]{20}$/.test(id) && typeof status === 'string' &&
    typeof createdAt === 'string' && createdAt.length <= 32 && Date.parse(createdAt) >= 0 &&
    isObject(labels) && Object.values(labels).every(value => typeof value === 'string')
  return isKnown ? found as unknown as Sandbox : undefined
}

function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
