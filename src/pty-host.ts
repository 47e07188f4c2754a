/**
 * The pty-host's front door: `pty-host.ts SETTINGS DIR`, started by the daemon, which it outlives.
 *
 * SETTINGS is a PtyHostSettings as JSON, DIR its own directory (control socket, pid file): when that is gone, it ends. SIGTERM has it hang up
 * all terminals and end; when it is killed, the kernel hangs them up.
 */
import { fstatSync, ftruncateSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino, destination } from 'pino'
import type { PtyHostSettings } from './services/terminals/server/pty-protocol.ts'
import { PtyServer } from './services/terminals/server/pty-server.ts'
import { ScreenKeeper } from './services/terminals/server/screen-keeper.ts'

const pollMs = 2000
const logFd = 2
const maxLogBytes = 16 * 1024 ** 2
const maxHeldLogBytes = 64 * 1024
// Its starter kills it after 5 s.
const hangUpMs = 3000

const [settingsText = '', dir = ''] = process.argv.slice(2)
const settings = JSON.parse(settingsText) as PtyHostSettings
writeFileSync(join(dir, 'pid'), `${process.pid}\n`, { mode: 0o600 })
const dirFd = openSync(dir, 'r')

const log = destination({ dest: logFd, sync: true, maxLength: maxHeldLogBytes })
// A full disk ends no terminal.
log.on('error', () => {})
const logger = pino({ level: settings.logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime }, log)
const screens = new ScreenKeeper({ logger })
const server = new PtyServer({ socketPath: join(dir, 'control.sock'), screens, logger })

let isEnding = false
const end = async (): Promise<void> => {
  if (isEnding) return
  isEnding = true
  await server.close(hangUpMs)
  await screens.close()
  process.exit(0)
}

// A hangup is none of its own: it leads a session without a terminal.
process.on('SIGHUP', () => {})
process.on('SIGTERM', () => void end())
screens.start()
await server.listen()
logger.info({ dir, version: settings.version }, 'the pty-host is ready')

setInterval(() => {
  // Clients that find out how to have something logged must not fill the host's disk.
  if (fstatSync(logFd).size > maxLogBytes) ftruncateSync(logFd)
  if (fstatSync(dirFd).nlink > 0) return
  logger.warn('the directory of the pty-host is gone: it ends')
  void end()
}, pollMs)
