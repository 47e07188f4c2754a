/** The front door: argv, environment and signals in, exit code out. */
import { readFileSync } from 'node:fs'
import closeWithGrace from 'close-with-grace'
import { pino, destination, type Logger } from 'pino'
import type { CliContext, DoctorOptions, GatewayOptions, ServeOptions } from './cli/cli-context.ts'
import { runCli } from './cli/program.ts'
import { toBerthError } from './errors.ts'

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }

// What is unpacked and mounted keeps the modes that it asks for.
process.umask(0o022)

async function serve (flags: ServeOptions): Promise<number> {
  const [{ readConfig }, { startDaemon }] = await Promise.all([import('./config.ts'), import('./daemon.ts')])
  const config = readConfig({ ...flags }, process.env)
  const logger = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
  const daemon = await startDaemon({ config, logger, version })
  if (config.reclaimAndExit) return 0
  logger.info({ url: daemon.url, socketPath: daemon.socketPath, tokenPath: daemon.tokenPath }, 'berth is ready')
  process.stdout.write(`berth listens at ${daemon.url} and ${daemon.socketPath}; the admin token is in ${daemon.tokenPath}\n`)
  return await untilEnded(config.shutdownGraceMs + (config.stopSandboxes ? config.shutdownTimeoutMs : 0) + 60_000, logger, 'the daemon', daemon)
}

async function gateway (flags: GatewayOptions): Promise<number> {
  const [{ readGatewayConfig }, { startGateway }] = await Promise.all([import('./gateway-config.ts'), import('./gateway.ts')])
  const config = readGatewayConfig({ ...flags }, process.env)
  const logger = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
  const running = await startGateway({ config, logger, version })
  logger.info({ url: running.url, grpcTarget: running.grpcTarget, tokenPath: config.tokenFile }, 'the gateway is ready')
  process.stdout.write(`berth gateway listens at ${running.url} and, for hosts, at ${running.grpcTarget}; the admin token is in ${config.tokenFile}\n`)
  return await untilEnded(config.shutdownGraceMs + 60_000, logger, 'the gateway', running)
}

/** Until a signal, or an error that nobody has caught, ends it. */
async function untilEnded (delay: number, logger: Logger, name: string, part: { close: () => Promise<void> }): Promise<number> {
  return await new Promise<number>(resolve => {
    closeWithGrace({ delay, logger: { error: (text: string) => { logger.error(text) } } }, async ({ err, signal }) => {
      if (err) logger.fatal({ err }, `${name} ends because of an error`)
      else logger.info({ signal }, `${name} ends`)
      await part.close()
      resolve(err ? 1 : 0)
    })
  })
}

async function doctor (options: DoctorOptions): Promise<number> {
  const [{ createHostChecks }, { runDoctor }, { runSelfTest }] = await Promise.all([
    import('./services/host/host-checks.ts'), import('./cli/doctor.ts'), import('./self-test.ts'),
  ])
  return await runDoctor({
    checks: createHostChecks(),
    json: options.json ?? false,
    write: text => { process.stdout.write(text) },
    ...(options.selfTest === false ? {} : { selfTest: runSelfTest }),
  })
}

const context: CliContext = {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  isTty: { stdin: process.stdin.isTTY, stdout: process.stdout.isTTY, stderr: process.stderr.isTTY },
  version,
  onSignal (signal, listener) {
    process.on(signal, listener)
    return () => process.off(signal, listener)
  },
  onExit (listener) {
    process.on('exit', listener)
    return () => process.off('exit', listener)
  },
  async terminalMode () {
    const { TerminalMode } = await import('./host/terminal-mode.ts')
    return new TerminalMode(process.stdin.fd)
  },
  serve,
  gateway,
  doctor,
}

try {
  process.exitCode = await runCli(process.argv.slice(2), context)
} catch (error) {
  process.stderr.write(`berth: ${toBerthError(error).message}\n`)
  process.exitCode = 125
}
