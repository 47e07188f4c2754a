/** Delivers the output of a task into two streams of S2 (https://s2.dev): `task.<taskId>.logs` and `task.<taskId>.status`. */
import type { Logger } from 'pino'
import type { OutputSink, SinkState } from './output-sink.ts'

export interface S2SinkOptions {
  taskId: string
  /** 8 to 48 of a-z, 0-9 and `-`. */
  basin: string
  /** Where S2 is, instead of s2.dev: `http://127.0.0.1:4443`. */
  endpoint?: string
  accessToken: string
  /** What the last confirmed batch answered. */
  state: SinkState
  logger: Logger
}

/** Opens without asking S2 anything: the first write does. @throws an error where the basin's name or the endpoint cannot be one. */
export async function openS2Sink (options: S2SinkOptions): Promise<OutputSink> {
  throw new Error(`no sink for ${options.taskId}`)
}
