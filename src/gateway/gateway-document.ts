/** What the OpenAPI document of a gateway says of the whole, and which schemas it names. */
import type { TSchema } from '@sinclair/typebox'
import type { OpenapiFace } from '../routes/openapi-document.ts'
import { FleetSandboxPage } from '../schemas/fleet-sandbox.ts'
import { FleetSandboxCreate, FleetTaskBatch, FleetTaskCreate, FleetToken, FleetTokenCreate, WorkerPage } from '../schemas/fleet.ts'
import { FleetPoolList, FleetTokenPage, Gateway } from '../schemas/fleet-gateway.ts'
import { Health, Readiness } from '../schemas/host.ts'
import { LogEnd, LogFrame, LogRecord } from '../schemas/log.ts'
import { QueueStatus, Task, TaskBatchResult, TaskPage } from '../schemas/task.ts'
import { Ticket, TicketCreate } from '../schemas/ticket.ts'
import { ErrorBody } from '../schemas/wire.ts'

const description = `The gateway of a fleet of sandbox hosts.

It speaks as its hosts do: every answer is JSON in camelCase; times are ISO 8601 in UTC; lists answer \`{items, nextCursor}\`.
Errors always have the same body, \`Error\`; its \`kind\` decides the status, its \`code\` says exactly what is wrong.
Unknown fields are refused. Every POST takes an \`Idempotency-Key\` (but those that answer a secret): the same request sent twice with it happens once.

Everything below /v1/sandboxes/{id} is answered by the host of the sandbox, and everything below /v1/workers/{id}/api/ by that host, any method, streams and upgrades too: see the document of a host.`

export const gatewayFace: OpenapiFace = {
  title: 'Berth gateway',
  description,
  server: 'This gateway',
  bearer: 'A token of the fleet; scope admin may do all, client uses tasks and sandboxes of its pools, read looks at them, worker is for hosts that join',
  tags: [
    { name: 'tasks', description: 'Commands that are queued for a pool, run on one of its hosts, and reported on exactly once' },
    { name: 'sandboxes', description: 'Isolated machines on the hosts of a pool' },
    { name: 'logs', description: 'What tasks have written, from their hosts or the buffer of the fleet' },
    { name: 'workers', description: 'The hosts of the fleet' },
    { name: 'pools', description: 'Hosts that take the same tasks' },
    { name: 'tokens', description: 'Who may do what in the fleet' },
    { name: 'gateway', description: 'This gateway' },
    { name: 'probes', description: 'For watchers of the gateway' },
  ],
}

/** With those that they hold. */
export const gatewaySchemas: readonly TSchema[] = [
  ErrorBody, Task, TaskPage, TaskBatchResult, FleetTaskCreate, FleetTaskBatch, QueueStatus, LogRecord, LogFrame, LogEnd,
  FleetSandboxCreate, FleetSandboxPage, Ticket, TicketCreate, WorkerPage, FleetPoolList, FleetToken, FleetTokenCreate, FleetTokenPage, Gateway, Health, Readiness,
]
