import type { Logger } from 'pino'
import { JsonServer, writeLines, type JsonHandler } from '../../../lib/json-server.ts'
import type { NetworkServerEvent, NetworkServerStatus, OpenAnswer, PolicyFailure, ServerPolicy } from './network-protocol.ts'

/** What the socket opens the door to. */
export interface NetworkControlTarget {
  status: () => NetworkServerStatus
  setPolicies: (policies: ServerPolicy[]) => Promise<PolicyFailure[]>
  setPolicy: (policy: ServerPolicy) => Promise<void>
  removePolicy: (sandboxId: string) => Promise<void>
  opened: (answer: OpenAnswer) => void
  /** What happened since `after`, then what happens, until the signal is aborted. */
  events: (after: number, signal: AbortSignal) => AsyncIterable<NetworkServerEvent>
}

/** The network server's control socket, as network-protocol.ts describes it. */
export class NetworkControlServer extends JsonServer {
  constructor ({ socketPath, target, logger }: { socketPath: string, target: NetworkControlTarget, logger: Logger }) {
    super({ socketPath, handlers: handlersOf(target), onFailure: (error, path) => logger.error({ err: error, path }, 'a call of the daemon failed') })
  }
}

function handlersOf (target: NetworkControlTarget): Record<string, JsonHandler> {
  return {
    'GET /status': async () => target.status(),
    'PUT /policies': async ({ body }) => await target.setPolicies(await body() as ServerPolicy[]),
    'PUT /policies/*': async ({ body }) => await target.setPolicy(await body() as ServerPolicy),
    'DELETE /policies/*': async ({ id }) => await target.removePolicy(id),
    'POST /opened': async ({ body }) => target.opened(await body() as OpenAnswer),
    'GET /events': async ({ query, response }) => await writeLines(response, signal => target.events(Number(query.get('after') ?? 0), signal)),
  }
}
