/** The terminals of a sandbox: all of them, and the one that is looked at. */
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { Sandbox } from '../../schemas/sandbox.ts'
import type { Terminal, TerminalCreate } from '../../schemas/terminal.ts'
import { Button } from '../parts/button.tsx'
import { confirm } from '../parts/confirm.tsx'
import { useConsole } from '../parts/console-context.ts'
import { TextField } from '../parts/field.tsx'
import { FormDialog } from '../parts/form-dialog.tsx'
import { Empty, Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { Age } from '../parts/time-text.tsx'
import { useAction } from '../parts/use-action.ts'
import { useResource } from '../parts/use-resource.ts'
import { goTo, place } from '../stores/place-signal.ts'
import { formatCommandLine, parseCommandLine } from '../text/command-line.ts'
import { formatEnd } from '../text/format.ts'
import { formatPlace } from '../text/place.ts'
import { TerminalView } from './terminal-view.tsx'

export function TerminalPanel ({ sandbox, terminalId }: { sandbox: Sandbox, terminalId?: string }) {
  const { client, feed } = useConsole()
  const action = useAction()
  const isChoosing = useSignal(false)
  const path = `/v1/sandboxes/${sandbox.id}/terminals`
  const list = useResource(path, async () => await client.list<Terminal>(path, {}, 1000))
  useEffect(() => feed.subscribe(({ type, sandboxId }) => { if (type.startsWith('terminal.') && sandboxId === sandbox.id) list.reload() }), [feed, sandbox.id])
  const role = place.value.query.get('role') === 'read' ? 'read' : 'write'

  const show = (id: string) => goTo(['sandboxes', sandbox.id, 'terminals', id])
  const create = async (input: Partial<TerminalCreate>) => await action.run(async () => {
    const { id } = await client.post<Terminal>(path, input)
    list.reload()
    show(id)
  })
  const remove = async (id: string) => {
    if (!await confirm({ title: 'Delete this terminal?', text: 'Its program is ended, and what it wrote is forgotten.', action: 'Delete terminal' })) return
    const isDone = await action.run(async () => await client.request(`${path}/${id}`, { method: 'DELETE' }), 'Terminal deleted')
    if (isDone && id === terminalId) goTo(['sandboxes', sandbox.id, 'terminals'])
    list.reload()
  }

  const terminals = list.value.value
  const isRunning = sandbox.status === 'running'
  const buttons = (
    <>
      <Button kind='primary' icon='plus' disabled={!isRunning} isBusy={action.isBusy.value} onClick={() => void create({})}>Open terminal</Button>
      <Button disabled={!isRunning} onClick={() => { isChoosing.value = true }}>With options…</Button>
    </>
  )
  return (
    <div class='terminals'>
      <div class='tools'>
        <ul class='chips' aria-label='Terminals'>
          {terminals?.map(terminal => (
            <li key={terminal.id}>
              <a href={formatPlace(['sandboxes', sandbox.id, 'terminals', terminal.id])} class={terminal.status === 'ended' ? 'chip ended' : 'chip'} aria-current={terminal.id === terminalId ? 'page' : undefined}>{nameOf(terminal)}</a>
            </li>
          ))}
        </ul>
        <span class='spring' />
        {buttons}
      </div>
      {list.error.value !== undefined && <Problem text={list.error.value} onRetry={list.reload} />}
      {terminalId !== undefined && <TerminalView key={`${terminalId} ${role}`} sandboxId={sandbox.id} terminalId={terminalId} role={role} onDelete={() => void remove(terminalId)} />}
      {terminalId === undefined && !terminals && list.error.value === undefined && <Loading what='the terminals' />}
      {terminalId === undefined && terminals?.length === 0 && (
        <Empty icon='terminal' title='No terminals'><p>{isRunning ? 'A terminal runs on when you close the page, and shows what happened meanwhile when you come back.' : `Terminals can be opened while the sandbox runs; it is ${sandbox.status}.`}</p></Empty>
      )}
      {terminalId === undefined && terminals !== undefined && terminals.length > 0 && (
        <div class='table-box'>
          <table class='table'>
            <thead><tr><th scope='col'>Status</th><th scope='col'>Terminal</th><th scope='col' class='wide-only'>Viewers</th><th scope='col' class='number'>Last used</th><th scope='col'><span class='hidden'>Actions</span></th></tr></thead>
            <tbody>
              {terminals.map(terminal => (
                <tr key={terminal.id}>
                  <td><StatusBadge status={terminal.status} />{terminal.end && <span class='under muted'>{formatEnd(terminal.end)}</span>}</td>
                  <td class='main-cell'><a href={formatPlace(['sandboxes', sandbox.id, 'terminals', terminal.id])}>{nameOf(terminal)}</a><span class='under muted mono'>{terminal.id} · {terminal.user} · {terminal.cols}×{terminal.rows}</span></td>
                  <td class='wide-only'>{terminal.viewers.write + terminal.viewers.read}</td>
                  <td class='number'><Age at={terminal.lastActivityAt} /></td>
                  <td class='row-actions'><Button kind='danger' icon='trash' label={`Delete terminal ${terminal.id}`} onClick={() => void remove(terminal.id)} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {isChoosing.value && <TerminalDialog onClose={() => { isChoosing.value = false }} onCreate={create} />}
    </div>
  )
}

function nameOf ({ name, argv }: Terminal): string {
  return name ?? (argv === undefined ? 'Shell' : formatCommandLine(argv))
}

function TerminalDialog ({ onClose, onCreate }: { onClose: () => void, onCreate: (input: Partial<TerminalCreate>) => Promise<boolean> }) {
  const [command, user, cwd, name] = [useSignal(''), useSignal(''), useSignal(''), useSignal('')]
  const open = async () => {
    const argv = parseCommandLine(command.value)
    const texts = Object.entries({ user, cwd, name }).map(([key, field]) => [key, field.value.trim()]).filter(([, value]) => value !== '')
    return await onCreate({ ...(argv.length > 0 && { argv }), ...Object.fromEntries(texts) })
  }
  return (
    <FormDialog title='Open a terminal' action='Open' doing='Opening…' onClose={onClose} onSubmit={open}>
      <TextField label='Command' value={command} hasFocus placeholder='shell' />
      <div class='field-row halves'>
        <TextField label='User' value={user} placeholder="the sandbox's own" />
        <TextField label='Directory' value={cwd} placeholder="the sandbox's own" />
      </div>
      <TextField label='Name' value={name} placeholder='what people call it' />
    </FormDialog>
  )
}
