import type { Logger } from 'pino'
import type { OutputSpec } from '../../schemas/output.ts'
import { openConsoleSink } from './console-sink.ts'
import { openFileSink } from './file-sink.ts'
import type { OutputSink, SinkState } from './output-sink.ts'
import { WebhookSender } from './webhook-sender.ts'
import { openWebhookSink } from './webhook-sink.ts'

/** What a sink is opened with: the task, which of its outputs this is, and what the last confirmed batch answered. */
export interface SinkRequest {
  taskId: string
  spec: OutputSpec
  /** Place of the output among those of the task, from 0. */
  index: number
  state: SinkState
}

/** @throws SinkRefusal where trying again is no use; anything else is tried again. */
export type OpenSink = (request: SinkRequest) => Promise<OutputSink>

export interface SinkOpenerOptions {
  logger: Logger
  /** Absolute; made when it is missing. */
  outputDir: string
  /** Where the host has access to S2. */
  openS2?: OpenSink | undefined
  /** Where the host takes tasks of a fleet. */
  openFleet?: OpenSink | undefined
}

/** Opens sinks by their type. */
export class SinkOpener {
  readonly #options: SinkOpenerOptions
  readonly #sender = new WebhookSender()

  constructor (options: SinkOpenerOptions) {
    this.#options = options
  }

  readonly open: OpenSink = async request => {
    const { logger, outputDir, openS2, openFleet } = this.#options
    switch (request.spec.type) {
      case 'console': return openConsoleSink(request, logger)
      case 'file': return await openFileSink(request, outputDir)
      case 'webhook': return openWebhookSink(request, this.#sender)
      case 's2':
        if (!openS2) throw new Error('this host has no access to S2; set BERTH_S2_ACCESS_TOKEN_FILE')
        return await openS2(request)
      case 'fleet':
        if (!openFleet) throw new Error('this host takes no tasks of a fleet; set BERTH_REDIS')
        return await openFleet(request)
    }
  }

  /** Closes connections. Sinks must be closed before. */
  close (): Promise<void> {
    return this.#sender.close()
  }
}
