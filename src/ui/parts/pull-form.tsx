/** Brings an image here, and shows how far that is. */
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import type { PullEvent, PullProgress } from '../../schemas/image.ts'
import { isAbort, messageOf } from '../api/api-client.ts'
import { readNdjson } from '../api/line-splitter.ts'
import { addNotice } from '../stores/notices.ts'
import { formatBytes, formatShare, formatWords, shortDigest } from '../text/format.ts'
import { Button } from './button.tsx'
import { useConsole } from './console-context.ts'
import { Meter } from './usage-cells.tsx'

export function PullForm ({ onPulled }: { onPulled: () => void }) {
  const { client } = useConsole()
  const reference = useSignal('')
  const mode = useSignal<'lazy' | 'eager'>('lazy')
  const progress = useSignal<PullProgress | undefined>(undefined)
  const isBusy = useSignal(false)
  const problem = useSignal('')
  const pulling = useRef<AbortController | undefined>(undefined)
  useEffect(() => () => pulling.current?.abort(), [])

  const pull = async (event: SubmitEvent) => {
    event.preventDefault()
    const name = reference.value.trim()
    if (name === '' || isBusy.value) return
    pulling.current = new AbortController()
    isBusy.value = true
    problem.value = ''
    try {
      const response = await client.open('/v1/images/pull', { method: 'POST', query: { format: 'ndjson' }, json: { reference: name, mode: mode.value }, accept: 'application/x-ndjson', signal: pulling.current.signal })
      let isHere = false
      for await (const item of readNdjson<PullEvent>(response.body!)) {
        if (item.type === 'progress') progress.value = item
        else if (item.type === 'error') throw new Error(item.message)
        else isHere = true
      }
      if (!isHere) throw new Error('the connection was lost; pull once more, what was fetched is kept')
      addNotice('done', `${name} is here`)
      reference.value = ''
      onPulled()
    } catch (error) {
      if (!isAbort(error)) problem.value = messageOf(error)
    } finally {
      isBusy.value = false
      progress.value = undefined
    }
  }

  return (
    <section class='pull' aria-label='Pull an image'>
      <form class='tools' onSubmit={event => void pull(event)}>
        <div data-shortcut='n' class='pull-name'><input class='compact' aria-label='Image reference' placeholder='python:3.12' required value={reference.value} onInput={event => { reference.value = event.currentTarget.value }} spellcheck={false} autoCapitalize='off' /></div>
        <select class='compact' aria-label='How' value={mode.value} onChange={event => { mode.value = event.currentTarget.value === 'eager' ? 'eager' : 'lazy' }}>
          <option value='lazy'>Until it can be used</option>
          <option value='eager'>All of it</option>
        </select>
        {isBusy.value
          ? <Button onClick={() => pulling.current?.abort()}>Cancel</Button>
          : <Button type='submit' kind='primary' icon='download'>Pull</Button>}
      </form>
      {problem.value !== '' && <p class='problem' role='alert'>{problem.value}</p>}
      {isBusy.value && <Progress progress={progress.value} />}
    </section>
  )
}

function Progress ({ progress }: { progress?: PullProgress }) {
  if (!progress) return <p class='loading' role='status'><i aria-hidden='true' />Asking…</p>
  const share = progress.sizeBytes === 0 ? 0 : progress.fetchedBytes / progress.sizeBytes
  return (
    <div class='pulling'>
      <label>
        <span>{formatWords(progress.phase)} {progress.sizeBytes > 0 && `${formatBytes(progress.fetchedBytes)} of ${formatBytes(progress.sizeBytes)}`}</span>
        <progress max={1} value={progress.sizeBytes === 0 ? undefined : share} aria-label='Pull' />
      </label>
      {progress.layers.length > 0 && (
        <ul class='layers'>
          {progress.layers.map(layer => (
            <li key={layer.digest}><span class='mono'>{shortDigest(layer.digest)}</span> <span class='muted'>{layer.state}</span> <Meter text={formatShare(layer.sizeBytes === 0 ? 0 : layer.fetchedBytes / layer.sizeBytes)} share={layer.sizeBytes === 0 ? 0 : layer.fetchedBytes / layer.sizeBytes} /></li>
          ))}
        </ul>
      )}
    </div>
  )
}
