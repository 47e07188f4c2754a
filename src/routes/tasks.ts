/** Tasks over REST: queued commands, and the queue itself. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { TSchema } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import { ref } from '../schemas/components.ts'
import {
  PoolName, QueueStatus, Task, TaskBatch, TaskBatchResult, TaskCreate, TaskId, TaskPage, TaskStatus,
  type TaskStatus as Status,
} from '../schemas/task.ts'
import { Words, pattern } from '../schemas/wire.ts'
import { errorResponses } from './http-errors.ts'
import { parseLabels, parseTime } from './query.ts'
import { Cursor, Limit, WaitTimeout } from './sandboxes.ts'
import { clientSignal } from './streaming.ts'

export interface TaskFilter {
  status?: Status[]
  labels?: Record<string, string>
  pool?: string
  /** Created at or after this; ISO 8601 in UTC with milliseconds, as every time on the wire. */
  since?: string
  /** Created before this; likewise. */
  until?: string
  /** true: only those that failed for good; false: all others. */
  deadLetter?: boolean
  limit: number
  cursor?: string
}

export interface TaskWait {
  timeoutMs: number
  signal: AbortSignal
  /** running: also answers when it has ended instead; ended when absent. */
  until?: 'ended' | 'running'
}

/** What these routes need of the task service. What it answers is sent as it is. */
export interface Tasks {
  create: (input: TaskCreate, options: { idempotencyKey?: string }) => Promise<Task>
  /** All or none, in the order of the inputs. */
  createBatch: (inputs: TaskCreate[], options: { idempotencyKey?: string }) => Promise<Task[]>
  list: (filter: TaskFilter) => TaskPage | Promise<TaskPage>
  get: (id: string) => Promise<Task>
  wait: (id: string, options: TaskWait) => Promise<Task>
  cancel: (id: string) => Promise<Task>
  retry: (id: string) => Promise<Task>
  remove: (id: string) => Promise<void>
  queue: () => Promise<QueueStatus>
}

export interface TaskRouteOptions {
  /** The one service there is, or that of who asks. */
  tasks: Tasks | ((request: FastifyRequest) => Tasks)
  closing: AbortSignal
  /** What a body may be, and what the queue is called; those of a host when absent. */
  forms?: TaskForms
}

export interface TaskForms {
  task: TSchema
  batch: TSchema
  queueSummary: string
  /** What else there is to know of deleting a task. */
  removal?: string
}

const hostForms: TaskForms = { task: TaskCreate, batch: TaskBatch, queueSummary: 'Show how full the queue is, and the room of this host' }

const Params = Type.Object({ id: TaskId }, { additionalProperties: false })

/** One task or many: decided by the field `tasks` alone, so that what is wrong is said of the form that was meant. */
const OneOrMany = ({ task, batch }: TaskForms) => Type.Unsafe<TaskCreate | TaskBatch>({
  if: { type: 'object', properties: { tasks: {} }, required: ['tasks'] },
  then: ref(batch),
  else: ref(task),
})

const CreatedTime = (which: string) => Type.Optional(Type.String({ format: 'date-time', description: `Created ${which} this time, ISO 8601` }))

const ListQuery = Type.Object({
  limit: Limit,
  cursor: Cursor,
  status: Type.Optional(Type.Array(TaskStatus, { description: 'One of these; repeat it or separate by commas' })),
  label: Type.Optional(Type.Array(Type.String({ maxLength: 512, pattern: pattern('^[^=]+=', 'must be name=value') }), { maxItems: 64, description: 'name=value; repeat it to ask for several labels at once' })),
  pool: Type.Optional(Type.String({ ...PoolName, default: undefined, description: 'Of this pool' })),
  since: CreatedTime('at or after'),
  until: CreatedTime('before'),
  deadLetter: Type.Optional(Type.Boolean({ description: 'true: only those that have failed for good after several attempts, or without ever having been run; false: only the others' })),
}, { additionalProperties: false })

const tags = ['tasks']
const task = (description: string) => ref(Task, { description })
/** The native serialiser, everywhere the same: the service answers exactly the schema's shape, and a thousand tasks take it half the time. */
const serializerCompiler = () => (value: unknown) => JSON.stringify(value)

export const taskRoutes: FastifyPluginAsyncTypebox<TaskRouteOptions> = async (app, { tasks, closing, forms = hostForms }) => {
  const serviceOf = typeof tasks === 'function' ? tasks : () => tasks
  app.post('/tasks', {
    config: { secretFields: ['outputs.secret', 'tasks.outputs.secret'] },
    serializerCompiler,
    schema: {
      operationId: 'createTask',
      summary: 'Queue a task, or up to 1000 at once',
      description: 'Answers once what it answers is on disk: from then on each task is run, whatever dies in between. Of a batch all are queued or none.',
      tags,
      body: OneOrMany(forms),
      response: {
        201: {
          description: 'The task; for a batch its tasks',
          headers: { Location: { type: 'string', description: 'Path of the task; not for a batch' } },
          content: { 'application/json': { schema: Type.Unsafe<Task | TaskBatchResult>({ oneOf: [ref(Task), ref(TaskBatchResult)] }) } },
        },
        ...errorResponses(409, 413, 415, 429),
      },
    },
  }, async (request, reply) => {
    const claim = request.idempotent
    // The queue keeps the key with the task, so that a crash before the answer makes no second one.
    const options = { idempotencyKey: claim && `${claim.tokenId}/${claim.key}` }
    const service = serviceOf(request)
    if ('tasks' in request.body) return reply.code(201).send({ items: await service.createBatch(request.body.tasks, options) })
    const created = await service.create(request.body, options)
    return reply.code(201).header('location', `/v1/tasks/${created.id}`).send(created)
  })

  app.get('/tasks', {
    serializerCompiler,
    schema: {
      operationId: 'listTasks', summary: 'List tasks, the newest first', tags, querystring: ListQuery, response: { 200: ref(TaskPage, { description: 'A page of tasks' }), ...errorResponses() },
    },
  }, async request => {
    const { label, since, until, ...filter } = request.query
    return serviceOf(request).list({
      ...filter,
      ...(label && { labels: parseLabels(label) }),
      ...(since !== undefined && { since: parseTime('since', since) }),
      ...(until !== undefined && { until: parseTime('until', until) }),
    })
  })

  app.get('/tasks/:id', {
    serializerCompiler,
    schema: { operationId: 'getTask', summary: 'Get a task', description: 'With its attempts, and how far its outputs have come.', tags, params: Params, response: { 200: task('The task'), ...errorResponses(404) } },
  }, async request => serviceOf(request).get(request.params.id))

  app.delete('/tasks/:id', {
    schema: {
      operationId: 'deleteTask',
      summary: 'Delete a task that has ended, and its log',
      ...(forms.removal === undefined ? {} : { description: forms.removal }),
      tags,
      params: Params,
      response: { 204: Type.Null({ description: 'It is gone' }), ...errorResponses(404, 409) },
    },
  }, async (request, reply) => {
    await serviceOf(request).remove(request.params.id)
    return reply.code(204).send(null)
  })

  const action = (name: string, summary: string, description: string) => ({
    operationId: `${name}Task`, summary, description, tags, params: Params, response: { 200: task('The task as it is after the change'), ...errorResponses(404, 409) },
  })
  app.post('/tasks/:id/cancel', {
    serializerCompiler,
    schema: action('cancel', 'Cancel a task', 'One that waits is cancelled at once. One that is under way is asked to end: SIGTERM, a time of grace, SIGKILL; it is cancelled when its sandbox has ended. One that has ended is left as it is.'),
  }, async request => serviceOf(request).cancel(request.params.id))
  app.post('/tasks/:id/retry', {
    serializerCompiler,
    schema: action('retry', 'Queue a task again that has failed or was cancelled', 'With as many attempts as it had at first. Its log goes on.'),
  }, async request => serviceOf(request).retry(request.params.id))

  app.get('/tasks/:id/wait', {
    serializerCompiler,
    exposeHeadRoute: false,
    schema: {
      operationId: 'waitTask',
      summary: 'Wait until a task has ended, or runs',
      tags,
      params: Params,
      querystring: Type.Object({
        timeoutMs: WaitTimeout,
        until: Words(['ended', 'running'], { default: 'ended', description: 'running: answer when its command runs; also when it has ended before' }),
      }, { additionalProperties: false }),
      response: { 200: task('The task; `end` says how it ended'), ...errorResponses(404, 499, 504) },
    },
  }, async (request, reply) => serviceOf(request).wait(request.params.id, { ...request.query, signal: clientSignal(reply, closing) }))

  app.get('/queue', {
    schema: { operationId: 'getQueue', summary: forms.queueSummary, tags, response: { 200: ref(QueueStatus, { description: 'The queue' }), ...errorResponses() } },
  }, async request => serviceOf(request).queue())
}
