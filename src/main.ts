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
  const [{ readConfig }, { startDaemon }, { ServiceManager }] = await Promise.all([import('./config.ts'), import('./daemon.ts'), import('./host/service-manager.ts')])
  const config = readConfig({ ...flags }, process.env)
  const logger = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
  const tracing = await openTraces('berth', logger)
  const daemon = await startDaemon({ config, logger, version, tracing })
  if (config.reclaimAndExit) return 0
  const manager = new ServiceManager({ environment: process.env, onError: error => logger.warn({ err: error }, 'the service manager could not be told') })
  manager.startWatchdog()
  manager.notifyReady(`listening at ${daemon.url}`)
  logger.info({ url: daemon.url, socketPath: daemon.socketPath, tokenPath: daemon.tokenPath }, 'berth is ready')
  process.stdout.write(`berth listens at ${daemon.url} and ${daemon.socketPath}; the admin token is in ${daemon.tokenPath}\n`)
  const endsWithinMs = config.shutdownGraceMs + (config.stopSandboxes ? config.shutdownTimeoutMs : 0) + 60_000
  return await untilEnded(endsWithinMs, { logger, name: 'the daemon', parts: [daemon, tracing], onSignal: () => manager.notifyStopping(endsWithinMs) })
}

async function gateway (flags: GatewayOptions): Promise<number> {
  const [{ readGatewayConfig }, { startGateway }, { ServiceManager }] = await Promise.all([import('./gateway-config.ts'), import('./gateway.ts'), import('./host/service-manager.ts')])
  const config = readGatewayConfig({ ...flags }, process.env)
  const logger = pino({ level: config.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: true }))
  const tracing = await openTraces('berth-gateway', logger)
  const running = await startGateway({ config, logger, version, tracing })
  const manager = new ServiceManager({ environment: process.env, onError: error => logger.warn({ err: error }, 'the service manager could not be told') })
  manager.startWatchdog()
  manager.notifyReady(`listening at ${running.url}`)
  logger.info({ url: running.url, grpcTarget: running.grpcTarget, tokenPath: config.tokenFile }, 'the gateway is ready')
  process.stdout.write(`berth gateway listens at ${running.url} and, for hosts, at ${running.grpcTarget}; the admin token is in ${config.tokenFile}\n`)
  const endsWithinMs = config.shutdownGraceMs + 60_000
  return await untilEnded(endsWithinMs, { logger, name: 'the gateway', parts: [running, tracing], onSignal: () => manager.notifyStopping(endsWithinMs) })
}

interface Ending {
  logger: Logger
  name: string
  /** Closed in this order. */
  parts: Array<{ close: () => Promise<void> }>
  onSignal: () => void
}

/** Traces as the environment wants them. */
async function openTraces (serviceName: string, logger: Logger) {
  const [{ readTracingSettings }, { openTracing }] = await Promise.all([import('./services/tracing/tracing-settings.ts'), import('./services/tracing/tracing.ts')])
  return await openTracing({ ...readTracingSettings(process.env, serviceName), version, logger })
}

/** Until a signal, or an error that nobody has caught, ends it. */
async function untilEnded (delay: number, { logger, name, parts, onSignal }: Ending): Promise<number> {
  return await new Promise<number>(resolve => {
    closeWithGrace({ delay, logger: { error: (text: string) => { logger.error(text) } } }, async ({ err, signal }) => {
      if (err) logger.fatal({ err }, `${name} ends because of an error`)
      else logger.info({ signal }, `${name} ends`)
      onSignal()
      for (const part of parts) await part.close()
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
