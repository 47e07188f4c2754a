/** All tasks: what waits, what runs, what came of it. */
import { useComputed, useSignal } from '@preact/signals'
import { memo } from 'preact/compat'
import { useEffect } from 'preact/hooks'
import type { Task } from '../../schemas/task.ts'
import { Button } from '../parts/button.tsx'
import { useConsole } from '../parts/console-context.ts'
import { FilterBar } from '../parts/filter-bar.tsx'
import { Labels } from '../parts/labels.tsx'
import { Empty, Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { taskActions } from '../parts/task-actions.ts'
import { TaskDialog } from '../parts/task-dialog.tsx'
import { Age } from '../parts/time-text.tsx'
import { WindowRows } from '../parts/window-rows.tsx'
import { useAction } from '../parts/use-action.ts'
import { goTo } from '../stores/place-signal.ts'
import { now } from '../stores/clock.ts'
import { byAge } from '../stores/resource-store.ts'
import { formatCommandLine } from '../text/command-line.ts'
import { formatDuration, formatEnd } from '../text/format.ts'
import { matchesFilter } from '../text/sandbox-filter.ts'

const statuses = ['pending', 'scheduled', 'running', 'complete', 'failed', 'cancelled'] as const

export function TasksPage () {
  const { tasks } = useConsole()
  const text = useSignal('')
  const status = useSignal('all')
  const isCreating = useSignal(false)
  const all = useComputed(() => byAge(tasks.items.value.values()))
  const shown = useComputed(() => all.value.filter(task => matchesFilter(task, text.value, status.value)))
  useEffect(() => tasks.ensure(), [tasks])

  const total = all.value.length
  return (
    <>
      <header class='page-head'>
        <h1>Tasks {total > 0 && <span class='count'>{shown.value.length === total ? total : `${shown.value.length} of ${total}`}</span>}</h1>
        <div class='tools'>
          <FilterBar what='tasks' text={text} status={status} statuses={statuses} />
          <div data-shortcut='n'><Button kind='primary' icon='plus' onClick={() => { isCreating.value = true }}>Create task</Button></div>
        </div>
      </header>
      {tasks.error.value !== undefined && <Problem text={tasks.error.value} onRetry={() => void tasks.load()} />}
      {tasks.state.value === 'loading' && <Loading what='tasks' />}
      {tasks.state.value === 'ready' && total === 0 && <Empty icon='tasks' title='No tasks yet'><p>A task is a command that is queued, run in a sandbox of its own, and reported on once.</p></Empty>}
      {total > 0 && shown.value.length === 0 && <Empty icon='search' title='No task matches'><Button onClick={() => { text.value = ''; status.value = 'all' }}>Clear the filter</Button></Empty>}
      {shown.value.length > 0 && (
        <div class='table-box'>
          <table class='table fixed' aria-rowcount={shown.value.length + 1}>
            <thead>
              <tr>
                <th scope='col' class='col-status'>Status</th><th scope='col'>Task</th><th scope='col' class='widest-only col-image'>Image</th><th scope='col' class='wide-only number col-time'>Attempt</th>
                <th scope='col' class='number col-time'>Took</th><th scope='col' class='wide-only number col-time'>Created</th><th scope='col' class='col-actions roomy-only'><span class='hidden'>Actions</span></th>
              </tr>
            </thead>
            <WindowRows rows={shown.value}>{task => <Row key={task.id} task={task} onPick={label => { text.value = label }} />}</WindowRows>
          </table>
        </div>
      )}
      {isCreating.value && <TaskDialog onClose={() => { isCreating.value = false }} onCreated={({ id }) => goTo(['tasks', id])} />}
    </>
  )
}

const Row = memo(({ task, onPick }: { task: Task, onPick: (text: string) => void }) => {
  const state = useConsole()
  const action = useAction()
  const { id, status, image, entrypoint, labels, end } = task
  const command = entrypoint === undefined ? undefined : formatCommandLine(entrypoint)
  return (
    <tr>
      <td><StatusBadge status={status} detail={end?.message} />{end && <span class='why muted'>{formatEnd(end)}</span>}</td>
      <td class='main-cell'>
        <a class='mono' href={`#/tasks/${id}`}>{id}</a>
        <span class='under'><span class='muted not-widest' title={image}>{image}</span><Labels labels={labels} onPick={onPick} most={4} />{command !== undefined && <code title={command}>{command}</code>}</span>
      </td>
      <td class='widest-only'><span class='ellipsis' title={image}>{image}</span></td>
      <td class='wide-only number'>{task.attempt} of {task.maxAttempts}</td>
      <td class='number'><Took task={task} /></td>
      <td class='wide-only number'><Age at={task.createdAt} /></td>
      <td class='row-actions roomy-only'>
        {taskActions(state, task, action).map(({ name, icon, isDangerous, run }) => (
          <Button key={name} kind={isDangerous ? 'danger' : 'quiet'} icon={icon} label={`${name} ${id}`} isBusy={action.isBusy.value} onClick={() => void run()} />
        ))}
      </td>
    </tr>
  )
}, (before, after) => before.task === after.task)

function Took ({ task: { startedAt, endedAt } }: { task: Task }) {
  if (startedAt === undefined) return <span class='muted'>–</span>
  return <>{formatDuration((endedAt === undefined ? now.value : Date.parse(endedAt)) - Date.parse(startedAt))}</>
}
