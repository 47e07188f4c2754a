import type { Readable, Writable } from 'node:stream'

/** What `berth serve` was given, as typed; absent means: not given, so the environment or the default decides. */
export interface ServeOptions {
  stateDir?: string
  runDir?: string
  listen?: string
  socket?: string
  gateway?: string
  gatewayTokenFile?: string
  redis?: string
  pool?: string
  advertise?: string
  stopSandboxes?: boolean
  configureHost?: boolean
  reclaimAndExit?: boolean
}

/** What `berth gateway` was given, likewise. */
export interface GatewayOptions {
  redis?: string
  listen?: string
  grpc?: string
  tokenFile?: string
}

export interface DoctorOptions {
  json?: boolean
  /** false: look at the host only, start no sandbox. */
  selfTest?: boolean
}

export type EndSignal = 'SIGINT' | 'SIGTERM' | 'SIGHUP'
export type WatchedSignal = EndSignal | 'SIGCONT'

/** Raw, nothing of what passes is changed. */
export interface TerminalMode {
  enter: () => void
  leave: () => void
}

/** Everything the command line takes from the process around it; only main.ts knows the real ones. */
export interface CliContext {
  env: Readonly<Record<string, string | undefined>>
  stdin: Readable
  stdout: Writable
  stderr: Writable
  isTty: { stdin: boolean, stdout: boolean, stderr: boolean }
  version: string
  /** Calls the listener at each such signal until the returned function is called. */
  onSignal: (signal: WatchedSignal, listener: () => void) => () => void
  /** Calls the listener when the process ends, however it comes to that, until the returned function is called. */
  onExit?: (listener: () => void) => () => void
  /** How the terminal of standard input treats what passes; Node's own raw mode where absent. */
  terminalMode?: () => Promise<TerminalMode>
  /** Run the daemon, a gateway, and the check of the host; each answers with the exit code. */
  serve: (options: ServeOptions) => Promise<number>
  gateway: (options: GatewayOptions) => Promise<number>
  doctor: (options: DoctorOptions) => Promise<number>
  /** How long to wait for a daemon that answered before to come back, in milliseconds; 60 s when absent. */
  comeBackMs?: number
}
