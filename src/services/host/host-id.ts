import { readFile } from 'node:fs/promises'
import { writeDurably } from '../../lib/durable-file.ts'
import { randomId } from '../../lib/id.ts'

/** A random id made once for a state directory: it names the parent of all its cgroups, and its networks. */
export async function readHostId (path: string): Promise<string> {
  const text = await readFile(path, 'latin1').catch(() => '')
  if (/^hst_[a-z0-9]{20}$/.test(text.trim())) return text.trim()
  const id = randomId('hst')
  await writeDurably(path, `${id}\n`)
  return id
}
