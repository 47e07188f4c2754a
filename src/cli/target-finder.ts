import { BerthError } from '../errors.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import type { Task } from '../schemas/task.ts'
import type { BerthClient, Query } from './client.ts'
import { isTaskEnded } from './task-text.ts'

/** What an id on the command line stands for. */
export interface Target {
  kind: TargetKind
  id: string
}

type TargetKind = 'sandbox' | 'task'

const kinds = {
  sandbox: { prefix: 'sbx_', path: '/v1/sandboxes', see: 'berth ps -a' },
  task: { prefix: 'tsk_', path: '/v1/tasks', see: 'berth task ls -a' },
} as const

const wholeId = /^(sbx|tsk)_[a-z0-9]{20}$/
const someId = /^((sbx|tsk)_)?[a-z0-9]*$/
const pageSize = 200
const shownCandidates = 5

/** All sandboxes that match, newest page order as the daemon gives it, one page in memory at a time. */
export function listSandboxes (client: BerthClient, query: Query = {}): AsyncGenerator<Sandbox> {
  return listAll<Sandbox>(client, 'sandbox', query)
}

/** The same for tasks. */
export function listTasks (client: BerthClient, query: Query = {}): AsyncGenerator<Task> {
  return listAll<Task>(client, 'task', query)
}

async function * listAll<T> (client: BerthClient, kind: TargetKind, query: Query): AsyncGenerator<T> {
  let cursor: string | undefined
  do {
    const page = await client.request<{ items: T[], nextCursor?: string }>('GET', kinds[kind].path, { query: { ...query, limit: pageSize, cursor } })
    yield * page.items
    cursor = page.nextCursor
  } while (cursor !== undefined)
}

/** The sandbox or task that a unique prefix, with or without its kind, stands for. */
export function resolveTarget (client: BerthClient, text: string): Promise<Target> {
  return resolve(client, text, ['sandbox', 'task'])
}

/** The task that it stands for; an id of a sandbox is none. */
export async function resolveTaskId (client: BerthClient, text: string): Promise<string> {
  return (await resolve(client, text, ['task'])).id
}

/** The sandbox that it stands for; for a task the one of its attempt under way. */
export async function resolveSandboxId (client: BerthClient, text: string): Promise<string> {
  const target = await resolveTarget(client, text)
  if (target.kind === 'sandbox') return target.id
  const task = await client.request<Task>('GET', `/v1/tasks/${target.id}`)
  if (isTaskEnded(task)) throw new BerthError('conflict', 'task_ended', `task ${task.id} has ended (${task.status}), and its sandbox is gone; what it wrote is shown by: berth logs ${task.id}`)
  if (task.sandboxId === undefined) throw new BerthError('conflict', 'task_not_running', `task ${task.id} is still ${task.status} and has no sandbox yet; see how it gets on with: berth task inspect ${task.id}`)
  return task.sandboxId
}

async function resolve (client: BerthClient, text: string, among: readonly TargetKind[]): Promise<Target> {
  const named = among.find(kind => text.startsWith(kinds[kind].prefix))
  if (named && wholeId.test(text)) return { kind: named, id: text }
  const see = among.map(kind => kinds[kind].see).join(' and ')
  const isOther = named === undefined && text.includes('_')
  if (text === '' || text === (named && kinds[named].prefix) || !someId.test(text) || isOther) {
    throw new BerthError('invalid_argument', 'usage', `'${text}' is not ${among.map(kind => `a ${kind}`).join(' or ')} id; see them with: ${see}`)
  }
  const found: Target[] = []
  for (const kind of named ? [named] : among) {
    const wanted = named ? text : `${kinds[kind].prefix}${text}`
    for await (const { id } of listAll<{ id: string }>(client, kind, {})) if (id.startsWith(wanted)) found.push({ kind, id })
  }
  const [only] = found
  if (!only) throw new BerthError('not_found', `${named ?? among[0]}_not_found`, `no ${named ?? among.join(' or ')} has the id '${text}'; see them with: ${see}`)
  if (found.length > 1) {
    const more = found.length > shownCandidates ? ` and ${found.length - shownCandidates} more` : ''
    throw new BerthError('conflict', 'ambiguous_id', `'${text}' stands for ${found.slice(0, shownCandidates).map(({ id }) => id).join(', ')}${more}; give more of the id`)
  }
  return only
}
