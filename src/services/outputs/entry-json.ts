import { isUtf8 } from 'node:buffer'

/** Bytes in JSON: as text where they are UTF-8, else in base64. */
export function dataJson (data: Buffer): { data: string, encoding?: 'base64' } {
  return isUtf8(data) ? { data: data.toString() } : { data: data.toString('base64'), encoding: 'base64' }
}
