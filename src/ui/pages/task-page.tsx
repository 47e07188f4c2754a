/** One task: how far it is, and its log. */
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import type { Task } from '../../schemas/task.ts'
import { Button } from '../parts/button.tsx'
import { useConsole } from '../parts/console-context.ts'
import { CopyText } from '../parts/copy-text.tsx'
import { Facts } from '../parts/facts.tsx'
import { Labels } from '../parts/labels.tsx'
import { LogView } from '../parts/log-view.tsx'
import { Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { taskActions } from '../parts/task-actions.ts'
import { useAction } from '../parts/use-action.ts'
import { useResource } from '../parts/use-resource.ts'
import { goTo } from '../stores/place-signal.ts'
import { formatCommandLine } from '../text/command-line.ts'
import { formatBytes, formatCores, formatDuration, formatEnd, formatTime, formatWords } from '../text/format.ts'

export function TaskPage ({ id }: { id: string }) {
  const state = useConsole()
  const action = useAction()
  const isDetailed = useSignal(false)
  const read = useResource(id, signal => state.client.get<Task>(`/v1/tasks/${id}`, undefined, signal))
  useEffect(() => state.feed.subscribe(({ taskId, type }) => { if (taskId === id && type === 'task.status') read.reload() }), [state, id])
  const task = read.value.value
  return (
    <>
      <header class='page-head'>
        <div>
          <p class='crumbs'><a href='#/tasks'>Tasks</a> /</p>
          <h1 class='mono-title'><CopyText text={id} what='id' /></h1>
          {task && (
            <p class='facts'>
              <StatusBadge status={task.status} /> <span>{task.image}</span>{task.end && <span>{formatEnd(task.end)}</span>}
              {task.sandboxId && <a class='mono' href={`#/sandboxes/${task.sandboxId}`}>{task.sandboxId}</a>}
              {task.isDeadLetter && <span class='label'>dead letter</span>}
            </p>
          )}
        </div>
        {task && (
          <div class='tools'>
            <Button isPressed={isDetailed.value} onClick={() => { isDetailed.value = !isDetailed.value }}>Details</Button>
            {taskActions(state, task, action).map(({ name, icon, isDangerous, run }) => (
              <Button
                key={name} kind={isDangerous ? 'danger' : 'plain'} icon={icon} isBusy={action.isBusy.value}
                onClick={() => void run().then(isDone => { if (isDone && name === 'Delete') goTo(['tasks']); else read.reload() })}
              >{name}</Button>
            ))}
          </div>
        )}
      </header>
      {read.error.value !== undefined && <Problem text={read.error.value} onRetry={read.reload} />}
      {!task && read.error.value === undefined && <Loading what='the task' />}
      {task && isDetailed.value && <TaskDetails task={task} />}
      {task && <LogView path={`/v1/tasks/${id}/logs`} fileName={`${id}.log`} />}
    </>
  )
}

function TaskDetails ({ task }: { task: Task }) {
  const { end } = task
  const time = (at: string | undefined) => at === undefined ? undefined : formatTime(at)
  return (
    <div class='cards'>
      <Facts title='Task' facts={[
        ['Command', task.entrypoint ? <code>{formatCommandLine(task.entrypoint)}</code> : "the image's own"],
        ['Labels', Object.keys(task.labels).length > 0 && <Labels labels={task.labels} />],
        ['Pool', task.pool],
        ['Priority', String(task.priority)],
        ['CPU limit', formatCores(task.resources.cpuMillis)],
        ['Memory limit', formatBytes(task.resources.memoryBytes)],
        ['Time limit', task.timeoutMs !== undefined && formatDuration(task.timeoutMs)],
      ]} />
      <Facts title='Life' facts={[
        ['Created', time(task.createdAt)],
        ['Not before', time(task.availableAt)],
        ['Started', time(task.startedAt)],
        ['Ended', time(task.endedAt)],
        ['Why', end && formatEnd(end)],
        ['Message', end?.message],
        ['Failed step', end?.step],
        ['Highest memory', end?.peakMemoryBytes !== undefined && formatBytes(end.peakMemoryBytes)],
      ]} />
      <Facts title='Attempts' facts={task.attempts.map(attempt => [
        `${attempt.number} of ${task.maxAttempts}`,
        <>{formatWords(attempt.status)}{attempt.end && `, ${formatEnd(attempt.end)}`}{attempt.startedAt !== undefined && attempt.endedAt !== undefined && `, ${formatDuration(Date.parse(attempt.endedAt) - Date.parse(attempt.startedAt))}`}</>,
      ] as const)} />
    </div>
  )
}
