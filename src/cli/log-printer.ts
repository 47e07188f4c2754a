import type { LogRecord, LogStream } from '../schemas/log.ts'
import type { Output } from './command-output.ts'

export interface LogPrinterOptions {
  output: Output
  /** Print the records themselves, one JSON object a line. */
  json?: boolean
  timestamps?: boolean
}

/** Prints records as the process wrote them: standard output to ours, standard error to ours. */
export class LogPrinter {
  readonly #output: Output
  readonly #json: boolean
  readonly #timestamps: boolean
  readonly #isMidLine: Record<LogStream, boolean> = { stdout: false, stderr: false }

  constructor (options: LogPrinterOptions) {
    this.#output = options.output
    this.#json = options.json ?? false
    this.#timestamps = options.timestamps ?? false
  }

  async print (record: LogRecord): Promise<void> {
    if (this.#json) return this.#output.line(JSON.stringify(record))
    if (record.type === 'gap') return this.#output.note(record.message)
    const stamp = this.#timestamps && !this.#isMidLine[record.stream] ? `${record.at} ` : ''
    this.#isMidLine[record.stream] = record.partial
    const lineEnd = record.partial ? '' : '\n'
    const chunk = record.encoding === undefined
      ? stamp + record.text + lineEnd
      : Buffer.concat([Buffer.from(stamp), Buffer.from(record.text, 'base64'), Buffer.from(lineEnd)])
    await (record.stream === 'stdout' ? this.#output.out(chunk) : this.#output.err(chunk))
  }
}
