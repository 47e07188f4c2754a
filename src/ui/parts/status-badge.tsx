/** A status: a word, and a colour that says the same again. */
const tones: Readonly<Record<string, string>> = {
  running: 'good', complete: 'good', ready: 'good', online: 'good', complete_image: 'good',
  pending: 'wait', creating: 'wait', created: 'wait', starting: 'wait', scheduled: 'wait', stopping: 'wait', paused: 'pause', partial: 'wait',
  failed: 'bad', lost: 'bad',
}

export function StatusBadge ({ status, detail }: { status: string, detail?: string }) {
  return <span class={`status ${tones[status] ?? 'plain'}`} title={detail}><i aria-hidden='true' />{status}</span>
}
