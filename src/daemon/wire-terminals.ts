/** Terminals as the configuration wants them, with the process that holds them. */
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import { PtyHostSupervisor } from '../services/terminals/pty-host-supervisor.ts'
import { TerminalManager, type TerminalManagerOptions } from '../services/terminals/terminal-manager.ts'

export interface TerminalWiring extends Omit<TerminalManagerOptions, 'windowBytes' | 'hosts'> {
  config: Pick<Config, 'terminalWindowBytes' | 'logLevel'>
  version: string
  logger: Logger
}

const ptyHostPath = fileURLToPath(new URL('../pty-host.ts', import.meta.url))

export function wireTerminals ({ config, version, ...parts }: TerminalWiring): TerminalManager {
  const { places, logger } = parts
  return new TerminalManager({
    ...parts,
    windowBytes: config.terminalWindowBytes,
    hosts: new PtyHostSupervisor({
      dir: places.ptyHostDir,
      command: [process.execPath, '--disable-warning=ExperimentalWarning', ptyHostPath],
      logPath: places.ptyHostLogPath,
      settings: { version, logLevel: config.logLevel },
      logger,
    }),
  })
}
