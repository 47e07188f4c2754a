import { status } from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { codeOf } from './gateway-channel.ts'
import type { GatewayClient } from './gateway-client.ts'

export interface StartedReport {
  /** The id by which the gateway knows the task. */
  taskId: string
  /** The number of the delivery. */
  fence: number
  sandboxId?: string
}

export interface EndedReport {
  taskId: string
  fence: number
  status: 'complete' | 'failed' | 'cancelled'
  /** Absent where the command came to no end of its own. */
  exitCode?: number
  /** Why it failed. */
  error?: string
}

/** Tells a gateway of deliveries. Resolves when it knows, or says that it never will; rejects with what is worth another try. */
export interface GatewayReports {
  started: (report: StartedReport) => Promise<void>
  ended: (report: EndedReport) => Promise<void>
}

/** Saying it again would not help. A token that is refused is not among these: its file may be replaced. */
const permanent: ReadonlySet<status | undefined> = new Set([
  status.NOT_FOUND, status.INVALID_ARGUMENT, status.FAILED_PRECONDITION, status.ALREADY_EXISTS, status.OUT_OF_RANGE, status.UNIMPLEMENTED,
])

/** Reports over the connection of a client. */
export function gatewayReports (client: Pick<GatewayClient, 'setTaskStarted' | 'setTaskResult'>, logger: Logger): GatewayReports {
  const tell = async ({ taskId, fence }: StartedReport | EndedReport, call: Promise<void>) => {
    await call.catch((error: unknown) => {
      if (!permanent.has(codeOf(error))) throw error
      logger.warn({ taskId, fence, err: error }, 'the gateway does not take a report of a task, and is not told again')
    })
  }
  return {
    started: report => tell(report, client.setTaskStarted(report)),
    ended: report => tell(report, client.setTaskResult(report)),
  }
}
