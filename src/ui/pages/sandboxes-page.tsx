/** All sandboxes: what they are, what they use, how long they have. */
import { useComputed, useSignal, type ReadonlySignal } from '@preact/signals'
import { memo } from 'preact/compat'
import { useEffect } from 'preact/hooks'
import type { Sandbox } from '../../schemas/sandbox.ts'
import { Button } from '../parts/button.tsx'
import { useConsole } from '../parts/console-context.ts'
import { FilterBar } from '../parts/filter-bar.tsx'
import { Labels } from '../parts/labels.tsx'
import { sandboxActions } from '../parts/sandbox-actions.ts'
import { Empty, Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { Age, Countdown } from '../parts/time-text.tsx'
import { useAction } from '../parts/use-action.ts'
import { SandboxDialog } from '../parts/sandbox-dialog.tsx'
import { UsageCells } from '../parts/usage-cells.tsx'
import { WindowRows } from '../parts/window-rows.tsx'
import { goTo } from '../stores/place-signal.ts'
import { byAge } from '../stores/resource-store.ts'
import { formatCommandLine } from '../text/command-line.ts'
import { formatEnd } from '../text/format.ts'
import { matchesFilter } from '../text/sandbox-filter.ts'

const statuses = ['pending', 'creating', 'created', 'running', 'paused', 'stopping', 'stopped', 'failed'] as const
const usageEveryMs = 3000

export function SandboxesPage () {
  const state = useConsole()
  const { sandboxes } = state
  const text = useSignal('')
  const status = useSignal('all')
  const isCreating = useSignal(false)
  const all = useComputed(() => byAge(sandboxes.items.value.values()))
  const shown = useComputed(() => all.value.filter(sandbox => matchesFilter(sandbox, text.value, status.value)))
  useEffect(() => sandboxes.ensure(), [sandboxes])
  useUsage()

  const total = all.value.length
  return (
    <>
      <header class='page-head'>
        <h1>Sandboxes <Count shown={shown} total={total} /></h1>
        <div class='tools'>
          <FilterBar what='sandboxes' text={text} status={status} statuses={statuses} />
          <div data-shortcut='n'><Button kind='primary' icon='plus' onClick={() => { isCreating.value = true }}>Create sandbox</Button></div>
        </div>
      </header>
      {sandboxes.error.value !== undefined && <Problem text={sandboxes.error.value} onRetry={() => void sandboxes.load()} />}
      {sandboxes.state.value === 'loading' && <Loading what='sandboxes' />}
      {sandboxes.state.value === 'ready' && total === 0 && (
        <Empty icon='sandboxes' title='No sandboxes yet'><p>A sandbox is an isolated machine for code that you do not trust.</p></Empty>
      )}
      {total > 0 && shown.value.length === 0 && (
        <Empty icon='search' title='No sandbox matches'><Button onClick={() => { text.value = ''; status.value = 'all' }}>Clear the filter</Button></Empty>
      )}
      {shown.value.length > 0 && (
        <div class='table-box'>
          <table class='table fixed' aria-rowcount={shown.value.length + 1}>
            <thead>
              <tr>
                <th scope='col' class='col-status'>Status</th><th scope='col'>Sandbox</th><th scope='col' class='widest-only col-image'>Image</th><th scope='col' class='wide-only number col-figure'>CPU</th>
                <th scope='col' class='wide-only number col-figure'>Memory</th><th scope='col' class='number col-time'>Ends in</th><th scope='col' class='wide-only number col-time'>Created</th>
                <th scope='col' class='col-actions roomy-only'><span class='hidden'>Actions</span></th>
              </tr>
            </thead>
            <WindowRows rows={shown.value}>{sandbox => <Row key={sandbox.id} sandbox={sandbox} onPick={label => { text.value = label }} />}</WindowRows>
          </table>
        </div>
      )}
      {isCreating.value && <SandboxDialog onClose={() => { isCreating.value = false }} onCreated={({ id }) => goTo(['sandboxes', id])} />}
    </>
  )
}

function Count ({ shown, total }: { shown: ReadonlySignal<readonly unknown[]>, total: number }) {
  if (total === 0) return null
  return <span class='count'>{shown.value.length === total ? total : `${shown.value.length} of ${total}`}</span>
}

const Row = memo(({ sandbox, onPick }: { sandbox: Sandbox, onPick: (text: string) => void }) => {
  const state = useConsole()
  const action = useAction()
  const { id, status, image, entrypoint, labels, deadlineAt, idleDeadlineAt, createdAt, end } = sandbox
  const deadline = [deadlineAt, idleDeadlineAt].filter(at => at !== undefined).sort()[0]
  const isActive = ['running', 'paused'].includes(status)
  const command = entrypoint === undefined ? undefined : formatCommandLine(entrypoint)
  return (
    <tr>
      <td><StatusBadge status={status} detail={end && (end.message ?? formatEnd(end))} />{end && <span class='why muted'>{formatEnd(end)}</span>}</td>
      <td class='main-cell'>
        <a class='mono' href={`#/sandboxes/${id}`}>{id}</a>
        <span class='under'><span class='muted not-widest' title={image.reference}>{image.reference}</span><Labels labels={labels} onPick={onPick} most={4} />{command !== undefined && <code title={command}>{command}</code>}</span>
      </td>
      <td class='widest-only'><span class='ellipsis' title={image.reference}>{image.reference}</span></td>
      <UsageCells id={id} resources={sandbox.resources} isActive={isActive} />
      <td class='number'>{isActive && deadline !== undefined ? status === 'paused' ? <span class='muted'>paused</span> : <Countdown at={deadline} /> : <span class='muted'>–</span>}</td>
      <td class='wide-only number'><Age at={createdAt} /></td>
      <td class='row-actions roomy-only'>
        {sandboxActions(state, sandbox, action).map(({ name, icon, isDangerous, run }) => (
          <Button key={name} kind={isDangerous ? 'danger' : 'quiet'} icon={icon} label={`${name} ${id}`} isBusy={action.isBusy.value} onClick={() => void run()} />
        ))}
      </td>
    </tr>
  )
}, (before, after) => before.sandbox === after.sandbox)

/** Looks at the usage of all, again and again, for as long as the page shows it. */
function useUsage (): void {
  const state = useConsole()
  useEffect(() => {
    const look = () => { if (!document.hidden && state.feed.state.peek() !== 'lost') void state.readUsage() }
    look()
    const timer = setInterval(look, usageEveryMs)
    return () => clearInterval(timer)
  }, [state])
}
