/** The files of a sandbox: look, take out, put in, delete. Every name is the sandbox's own word, and shown as text. */
import { useSignal } from '@preact/signals'
import { useRef } from 'preact/hooks'
import type { FileEntry } from '../../schemas/file.ts'
import type { Sandbox } from '../../schemas/sandbox.ts'
import { place } from '../stores/place-signal.ts'
import { entryPlace, joinPath, pathSteps, placeQuery, shownName, shownPath, sortEntries, type FilePlace } from '../text/file-place.ts'
import { formatBytes } from '../text/format.ts'
import { formatPlace } from '../text/place.ts'
import { Button } from './button.tsx'
import { confirm } from './confirm.tsx'
import { useConsole } from './console-context.ts'
import { Icon } from './icon.tsx'
import { saveAnswer } from './save-answer.ts'
import { Empty, Loading, Problem } from './states.tsx'
import { Age } from './time-text.tsx'
import { useAction } from './use-action.ts'
import { useResource } from './use-resource.ts'

const mostEntries = 2000

export function FileBrowser ({ sandbox }: { sandbox: Sandbox }) {
  const { client } = useConsole()
  const action = useAction()
  const isOver = useSignal(false)
  const input = useRef<HTMLInputElement>(null)
  const here: FilePlace = { path: place.value.query.get('path') ?? sandbox.workingDir, isBase64: place.value.query.get('encoding') === 'base64' }
  const base = `/v1/sandboxes/${sandbox.id}/files`
  const isRunning = sandbox.status === 'running'
  const list = useResource(`${sandbox.id} ${sandbox.status} ${here.path}`, async () => isRunning ? await client.list<FileEntry>(`${base}/list`, placeQuery(here), mostEntries) : [])
  const entries = list.value.value
  const linkTo = ({ path, isBase64 }: FilePlace) => formatPlace(['sandboxes', sandbox.id, 'files'], isBase64 ? { path, encoding: 'base64' } : { path })

  const upload = async (files: readonly File[]) => {
    for (const file of files) {
      const target = joinPath(here.path, file.name)
      const isDone = await action.run(async () => await client.request(base, { method: 'PUT', query: { path: target }, body: file }), `Uploaded ${file.name}`)
      if (!isDone) break
    }
    list.reload()
  }
  const remove = async (entry: FileEntry) => {
    const name = shownName(entry)
    const text = entry.type === 'directory' ? `${name} and all that is in it are deleted.` : `${name} is deleted.`
    if (!await confirm({ title: entry.type === 'directory' ? 'Delete this directory?' : 'Delete this file?', text, action: 'Delete' })) return
    const { path, pathEncoding } = placeQuery(entryPlace(entry))
    await action.run(async () => await client.request(`${base}/remove`, { method: 'POST', query: { pathEncoding }, json: { path, recursive: entry.type === 'directory' } }), `Deleted ${name}`)
    list.reload()
  }
  const download = (entry: FileEntry) => {
    const isDirectory = entry.type === 'directory'
    void saveAnswer(client, isDirectory ? `${base}/archive` : base, placeQuery(entryPlace(entry)), isDirectory ? `${shownName(entry)}.tar` : shownName(entry))
  }
  const onDrop = (event: DragEvent) => {
    event.preventDefault()
    isOver.value = false
    void upload([...event.dataTransfer?.files ?? []])
  }

  if (!isRunning) {
    return <Empty icon='folder' title='Files can be seen while the sandbox runs'><p>It is {sandbox.status}.</p></Empty>
  }
  const steps = pathSteps(here)
  return (
    <section
      class={isOver.value ? 'files over' : 'files'} aria-label='Files' onDrop={onDrop} onDragOver={event => { event.preventDefault(); isOver.value = true }}
      onDragLeave={() => { isOver.value = false }}
    >
      <div class='tools'>
        <nav class='path' aria-label='Directory'>
          {steps.length === 0 && <span>{shownPath(here)}</span>}
          {steps.map(({ name, path }, index) => (
            <span key={path}>{index > 1 && '/'}<a href={linkTo({ path, isBase64: false })} aria-current={index === steps.length - 1 ? 'location' : undefined}>{name}</a></span>
          ))}
        </nav>
        <span class='spring' />
        <input ref={input} type='file' multiple hidden onChange={event => { void upload([...event.currentTarget.files ?? []]); event.currentTarget.value = '' }} aria-label='Files to upload' />
        <Button icon='refresh' label='Read the directory again' onClick={list.reload} />
        <Button icon='upload' isBusy={action.isBusy.value} disabled={here.isBase64} onClick={() => input.current?.click()}>Upload</Button>
      </div>
      {list.error.value !== undefined && <Problem text={list.error.value} onRetry={list.reload} />}
      {!entries && list.error.value === undefined && <Loading what='files' />}
      {entries?.length === 0 && <Empty icon='folder' title='Nothing is in this directory'><p>Drop files here to upload them.</p></Empty>}
      {entries !== undefined && entries.length > 0 && (
        <div class='table-box'>
          <table class='table'>
            <thead><tr><th scope='col'>Name</th><th scope='col' class='number'>Size</th><th scope='col' class='wide-only'>Mode</th><th scope='col' class='wide-only'>Owner</th><th scope='col' class='wide-only number'>Modified</th><th scope='col'><span class='hidden'>Actions</span></th></tr></thead>
            <tbody>{sortEntries(entries).map(entry => <Entry key={entry.path} entry={entry} href={entry.type === 'directory' ? linkTo(entryPlace(entry)) : undefined} onDownload={download} onRemove={remove} />)}</tbody>
          </table>
          {entries.length >= mostEntries && <p class='more'>Only the first {mostEntries} are shown.</p>}
        </div>
      )}
    </section>
  )
}

interface EntryProps {
  entry: FileEntry
  href?: string
  onDownload: (entry: FileEntry) => void
  onRemove: (entry: FileEntry) => Promise<void>
}

function Entry ({ entry, href, onDownload, onRemove }: EntryProps) {
  const name = shownName(entry)
  const isFile = entry.type === 'file' || entry.type === 'symlink'
  return (
    <tr>
      <td class='main-cell file'>
        <span class='file-name'>
          <Icon name={entry.type === 'directory' ? 'folder' : 'file'} />
          {href !== undefined && <a class='ellipsis mono' href={href}>{name}</a>}
          {href === undefined && <span class='ellipsis mono'>{name}</span>}
          {entry.target !== undefined && <span class='muted mono ellipsis'>→ {entry.encoding === undefined ? entry.target : '…'}</span>}
        </span>
      </td>
      <td class='number'>{entry.type === 'file' ? formatBytes(entry.sizeBytes) : <span class='muted'>{entry.type.replaceAll('_', ' ')}</span>}</td>
      <td class='wide-only mono'>{entry.mode}</td>
      <td class='wide-only'>{entry.owner ?? entry.uid}:{entry.group ?? entry.gid}</td>
      <td class='wide-only number'><Age at={entry.modifiedAt} /></td>
      <td class='row-actions'>
        {(isFile || href !== undefined) && <Button kind='quiet' icon='download' label={`Download ${name}`} onClick={() => onDownload(entry)} />}
        <Button kind='danger' icon='trash' label={`Delete ${name}`} onClick={() => void onRemove(entry)} />
      </td>
    </tr>
  )
}
