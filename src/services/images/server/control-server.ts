import type { Logger } from 'pino'
import { errorFacts } from '../../../lib/error-facts.ts'
import { JsonServer, writeLines, type JsonHandler } from '../../../lib/json-server.ts'
import type { LayerProgress } from '../layers/image-layer.ts'
import type { BootRequest, PreparedLayer, PrepareAnswer, PrepareRequest, ServerEvent, ServerStatus, ServerSettings } from './control-protocol.ts'

/** What the socket opens the door to. */
export interface ControlTarget {
  status: () => ServerStatus
  setSettings: (settings: ServerSettings) => void
  prepare: (request: PrepareRequest, onProgress: (progress: LayerProgress) => void) => Promise<PreparedLayer>
  layers: () => LayerProgress[]
  forget: (digests: readonly string[]) => Promise<void>
  boot: (request: BootRequest) => void
  /** What happened since `after`, then what happens, until the signal is aborted. */
  events: (after: number, signal: AbortSignal) => AsyncIterable<ServerEvent>
}

/** The image server's control socket, as control-protocol.ts describes it. */
export class ControlServer extends JsonServer {
  constructor ({ socketPath, target, logger }: { socketPath: string, target: ControlTarget, logger: Logger }) {
    super({ socketPath, handlers: handlersOf(target), onFailure: (error, path) => logger.error({ err: error, path }, 'a call of the daemon failed') })
  }
}

function handlersOf (target: ControlTarget): Record<string, JsonHandler> {
  return {
    'GET /status': async () => target.status(),
    'PUT /settings': async ({ body }) => target.setSettings(await body() as ServerSettings),
    'GET /layers': async () => target.layers(),
    'POST /layers': async ({ body, response }) => {
      const wanted = await body() as PrepareRequest
      const say = (line: PrepareAnswer) => { if (!response.destroyed) response.write(`${JSON.stringify(line)}\n`) }
      response.flushHeaders()
      try {
        say({ prepared: await target.prepare(wanted, progress => say({ progress })) })
      } catch (error) {
        say({ error: errorFacts(error) })
        throw error
      } finally {
        response.end()
      }
    },
    'POST /forget': async ({ body }) => await target.forget((await body() as { digests: string[] }).digests),
    'POST /boots': async ({ body }) => target.boot(await body() as BootRequest),
    'GET /events': async ({ query, response }) => await writeLines(response, signal => target.events(Number(query.get('after') ?? 0), signal)),
  }
}
