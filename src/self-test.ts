import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { readConfig } from './config.ts'
import { startDaemon } from './daemon.ts'

/**
 * Runs a sandbox to its end through a daemon of its own on temporary directories, and removes all of it:
 * the proof that this host can do what Berth is for. Throws what keeps it from doing so.
 */
export async function runSelfTest (): Promise<{ ok: boolean, detail: string, durationMs: number }> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-doctor-'))
  const flags = { stateDir: join(dir, 'state'), runDir: join(dir, 'run'), listen: '127.0.0.1:0' }
  const logger = pino({ level: 'silent' })
  const startDaemonWith = (more: Record<string, boolean>) => startDaemon({ config: readConfig({ ...flags, ...more }, {}), logger, version: 'doctor' })
  try {
    const daemon = await startDaemonWith({})
    try {
      return await daemon.selfTest()
    } finally {
      await daemon.close()
    }
  } finally {
    await startDaemonWith({ reclaimAndExit: true })
    await rm(dir, { recursive: true, force: true })
  }
}
