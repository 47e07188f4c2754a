/** Where the log of something lies, and how it ended. */
export interface LogSource {
  /** The log's directory, which only the daemon and conmon write to. */
  dir: string
  /** Whether nothing more will be written to it. */
  isEnded: () => boolean
  /** How what wrote it ended, once it has. */
  end?: (() => { reason?: string, exitCode?: number } | undefined) | undefined
  /** The cursor where the part that is meant begins; what lies before it is not read. */
  from?: string | undefined
  /** The cursor where the part that is meant ends, once something else follows it there. */
  until?: (() => string | undefined) | undefined
}
