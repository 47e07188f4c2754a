import type { LogRecord, LogStream } from '../schemas/log.ts'
import type { Output } from './output.ts'

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
    const text = stamp + record.text + (record.partial ? '' : '\n')
    await (record.stream === 'stdout' ? this.#output.out(text) : this.#output.err(text))
  }
}
