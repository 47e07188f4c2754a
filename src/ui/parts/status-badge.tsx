/** A status: a word, and a colour that says the same again. */
const statusesByTone: Readonly<Record<string, readonly string[]>> = {
  good: ['running', 'complete', 'ready'],
  wait: ['pending', 'creating', 'created', 'starting', 'scheduled', 'draining', 'stopping', 'partial'],
  pause: ['paused'],
  bad: ['failed', 'lost'],
}

const tones = new Map(Object.entries(statusesByTone).flatMap(([tone, statuses]) => statuses.map(status => [status, tone] as const)))

export function StatusBadge ({ status, detail }: { status: string, detail?: string }) {
  return <span class={`status ${tones.get(status) ?? 'plain'}`} title={detail}><i aria-hidden='true' />{status}</span>
}
