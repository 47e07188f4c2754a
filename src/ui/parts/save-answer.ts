/** Saves what the API answers as a file. */
import { messageOf, type ApiClient, type Query } from '../api/api-client.ts'
import { addNotice } from '../stores/notices.ts'
import { safeFileName } from '../text/hostile-text.ts'

// The browser keeps a large one on its disk until it is saved.
const keptMs = 60_000

/** Resolves when the browser has it; failures are shown. */
export async function saveAnswer (client: ApiClient, path: string, query: Query, name: string): Promise<void> {
  try {
    const response = await client.open(path, { query, accept: '*/*' })
    // Whatever it is, the browser must not show it as a page of ours.
    const blob = new Blob([await response.blob()], { type: 'application/octet-stream' })
    const link = document.createElement('a')
    link.href = URL.createObjectURL(blob)
    link.download = safeFileName(name)
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), keptMs)
  } catch (error) {
    addNotice('failed', messageOf(error))
  }
}
