/** One sandbox: what it is, and what goes on inside. */
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { Sandbox } from '../../schemas/sandbox.ts'
import { Button } from '../parts/button.tsx'
import { useConsole } from '../parts/console-context.ts'
import { CopyText } from '../parts/copy-text.tsx'
import { FileBrowser } from '../parts/file-browser.tsx'
import { LogView } from '../parts/log-view.tsx'
import { SandboxDetails } from '../parts/sandbox-details.tsx'
import { sandboxActions } from '../parts/sandbox-actions.ts'
import { Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { TerminalPanel } from '../terminal/terminal-panel.tsx'
import { useAction } from '../parts/use-action.ts'
import { useResource } from '../parts/use-resource.ts'
import { goTo } from '../stores/place-signal.ts'
import { formatEnd } from '../text/format.ts'

const tabs = [['logs', 'Log'], ['terminals', 'Terminals'], ['files', 'Files'], ['details', 'Details']] as const

export function SandboxPage ({ id, path: [tab = 'logs', item] }: { id: string, path: string[] }) {
  const state = useConsole()
  const action = useAction()
  // The list may not have been read, and does not hold what was deleted.
  const read = useResource(id, signal => state.client.get<Sandbox>(`/v1/sandboxes/${id}`, undefined, signal))
  const isGone = useSignal(false)
  useEffect(() => state.feed.subscribe(event => {
    if (event.sandboxId !== id || !event.type.startsWith('sandbox.')) return
    if (event.type === 'sandbox.deleted') isGone.value = true
    read.reload()
  }), [state, id])

  const listed = state.sandboxes.items.value.get(id)
  const sandbox = newer(read.value.value, listed)
  return (
    <>
      <header class='page-head'>
        <div>
          <p class='crumbs'><a href='#/sandboxes'>Sandboxes</a> /</p>
          <h1 class='mono-title'><CopyText text={id} what='id' /></h1>
          {sandbox && <p class='facts'><StatusBadge status={isGone.value || sandbox.deletedAt !== undefined ? 'deleted' : sandbox.status} /> <span>{sandbox.image.reference}</span>{sandbox.end && <span>{formatEnd(sandbox.end)}</span>}</p>}
        </div>
        {sandbox && !isGone.value && (
          <div class='tools'>
            {sandboxActions(state, sandbox, action).map(({ name, icon, isDangerous, run }) => (
              <Button key={name} kind={isDangerous ? 'danger' : 'plain'} icon={icon} isBusy={action.isBusy.value} onClick={() => void run().then(isDone => { if (isDone && name === 'Delete') goTo(['sandboxes']) })}>{name}</Button>
            ))}
          </div>
        )}
      </header>
      {read.error.value !== undefined && <Problem text={read.error.value} onRetry={read.reload} />}
      {!sandbox && read.error.value === undefined && <Loading what='the sandbox' />}
      {sandbox && (
        <>
          <nav class='tabs' aria-label='Parts of the sandbox'>
            {tabs.map(([name, text]) => <a key={name} href={`#/sandboxes/${id}/${name}`} aria-current={name === tab ? 'page' : undefined}>{text}</a>)}
          </nav>
          {tab === 'logs' && <LogView path={`/v1/sandboxes/${id}/logs`} fileName={`${id}.log`} />}
          {tab === 'terminals' && <TerminalPanel sandbox={sandbox} terminalId={item} />}
          {tab === 'files' && <FileBrowser sandbox={sandbox} />}
          {tab === 'details' && <SandboxDetails sandbox={sandbox} />}
        </>
      )}
    </>
  )
}

/** Of the single one and that of the list, the one that knows more: the list is told first of what changes here. */
function newer (read: Sandbox | undefined, listed: Sandbox | undefined): Sandbox | undefined {
  return listed ?? read
}
