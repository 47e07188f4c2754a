/** The images on this host: which there are, and how one comes here. */
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { Image, ImageRemoval } from '../../schemas/image.ts'
import { Button } from '../parts/button.tsx'
import { confirm } from '../parts/confirm.tsx'
import { useConsole } from '../parts/console-context.ts'
import { CopyText } from '../parts/copy-text.tsx'
import { PullForm } from '../parts/pull-form.tsx'
import { Empty, Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { Age } from '../parts/time-text.tsx'
import { useAction } from '../parts/use-action.ts'
import { useResource } from '../parts/use-resource.ts'
import { addNotice } from '../stores/notices.ts'
import { formatBytes, shortDigest } from '../text/format.ts'

export function ImagesPage () {
  const { client, feed } = useConsole()
  const action = useAction()
  const removing = useSignal('')
  const list = useResource('images', async () => await client.list<Image>('/v1/images', {}, 5000))
  useEffect(() => feed.subscribe(({ type }) => { if (type === 'image.pulled' || type === 'image.removed') list.reload() }), [feed])
  const images = list.value.value

  const remove = async (image: Image) => {
    const name = image.references[0] ?? shortDigest(image.digest)
    if (!await confirm({ title: 'Delete this image?', text: `${name} is fetched again when it is next asked for.`, action: 'Delete image' })) return
    removing.value = image.digest
    await action.run(async () => {
      const { freedBytes } = await client.request<ImageRemoval>(`/v1/images/${image.digest}`, { method: 'DELETE' })
      addNotice('done', `Image deleted, ${formatBytes(freedBytes)} freed`)
    })
    removing.value = ''
    list.reload()
  }

  return (
    <>
      <header class='page-head'><h1>Images {images && images.length > 0 && <span class='count'>{images.length}</span>}</h1></header>
      <PullForm onPulled={list.reload} />
      {list.error.value !== undefined && <Problem text={list.error.value} onRetry={list.reload} />}
      {!images && list.error.value === undefined && <Loading what='images' />}
      {images?.length === 0 && <Empty icon='images' title='No images yet'><p>They come when a sandbox asks for them, or when you pull one.</p></Empty>}
      {images !== undefined && images.length > 0 && (
        <div class='table-box'>
          <table class='table'>
            <thead><tr><th scope='col'>Image</th><th scope='col'>State</th><th scope='col' class='number'>Size</th><th scope='col' class='wide-only number'>Sandboxes</th><th scope='col' class='wide-only number'>Last used</th><th scope='col'><span class='hidden'>Actions</span></th></tr></thead>
            <tbody>
              {images.map(image => (
                <tr key={image.digest}>
                  <td class='main-cell'>{image.references.length === 0 ? <span class='muted'>no name</span> : image.references.map(reference => <div key={reference} class='ellipsis' title={reference}>{reference}</div>)}<span class='under'><CopyText text={image.digest} shown={shortDigest(image.digest)} what='digest' /></span></td>
                  <td><StatusBadge status={image.state} detail={image.kind} /></td>
                  <td class='number' title={`${formatBytes(image.localBytes)} of ${formatBytes(image.sizeBytes)} on this host`}>{image.localBytes < image.sizeBytes ? `${formatBytes(image.localBytes)} of ${formatBytes(image.sizeBytes)}` : formatBytes(image.sizeBytes)}</td>
                  <td class='wide-only number'>{image.leases}</td>
                  <td class='wide-only number'><Age at={image.lastUsedAt} /></td>
                  <td class='row-actions'><Button kind='danger' icon='trash' label={image.leases > 0 ? 'Sandboxes use it' : `Delete ${image.references[0] ?? image.digest}`} disabled={image.leases > 0} isBusy={removing.value === image.digest} onClick={() => void remove(image)} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  )
}
