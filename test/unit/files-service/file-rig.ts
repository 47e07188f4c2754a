/** A file manager over programs that the test plays: what they write, what they are given, and how they end. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { pino } from 'pino'
import type { OciProcess } from '../../../src/host/oci-spec.ts'
import { FileManager } from '../../../src/services/files/file-manager.ts'
import { HostPlaces } from '../../../src/services/sandboxes/sandbox-places.ts'
import { pollUntil } from '../../../src/lib/poll.ts'

export const sandboxId = `sbx_${'a'.repeat(20)}`
export const target = { sandboxId, path: '/workspace/f' }
export const entry = { name: 'f', path: '/workspace/f', type: 'file', sizeBytes: 5, mode: '0644', uid: 1000, gid: 1000, modifiedAt: '2026-01-01T00:00:00.000Z' }

/** One run of the program, from inside. */
export class PlayedProgram {
  readonly argv: string[]
  readonly env: string[]
  readonly stdin = new PassThrough()
  readonly stdout = new PassThrough()
  readonly stderr = new PassThrough()
  readonly #ended = Promise.withResolvers<{ exitCode: number }>()
  readonly ended = this.#ended.promise
  wasKilled = false

  constructor ({ args, env }: OciProcess) {
    this.argv = args
    this.env = env
    for (const stream of [this.stdin, this.stdout, this.stderr]) stream.on('error', () => {})
    this.ended.catch(() => {})
  }

  say (...lines: unknown[]): this {
    for (const line of lines) this.stdout.write(typeof line === 'string' || Buffer.isBuffer(line) ? line : `${JSON.stringify(line)}\n`)
    return this
  }

  end (exitCode = 0): this {
    this.stdout.end()
    this.#ended.resolve({ exitCode })
    return this
  }

  fail (error: Error): void {
    this.stdout.end()
    this.#ended.reject(error)
  }
}

export interface RigOptions {
  play: (program: PlayedProgram) => void
  stallMs?: number
  deadlineMs?: number
}

/** Answers a manager, and the programs that it has started. */
export async function buildFiles (t: { after: (release: () => Promise<void>) => void }, options: RigOptions) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-files-'))
  const programs: PlayedProgram[] = []
  let active = 0
  const byExec = new Map<string, PlayedProgram>()
  const sandbox = {
    status: 'running',
    record: { id: sandboxId, status: 'running', resources: { pids: 16 }, process: { uid: 1000, gid: 1000, additionalGids: [], env: { SECRET: 'x' }, cwd: '/nowhere', user: '1000' } },
    clock: { beginActivity: () => { active++; return () => { active-- } } },
    runtime: {
      exec: async ({ execId }: { execId: string }, process: OciProcess) => {
        const program = new PlayedProgram(process)
        programs.push(program)
        byExec.set(execId, program)
        options.play(program)
        return { child: { stdin: program.stdin, stdout: program.stdout, stderr: program.stderr, kill: () => program.end(137) }, ended: program.ended, hasStarted: async () => true }
      },
      signalExec: async ({ execId }: { execId: string }) => {
        const program = byExec.get(execId)
        if (program) program.wasKilled = true
        program?.end(137)
      },
    },
  }
  const files = new FileManager({
    places: new HostPlaces({ stateDir: join(dir, 'state'), runDir: join(dir, 'run') } as ConstructorParameters<typeof HostPlaces>[0]),
    sandboxes: { lifecycle: () => sandbox as never },
    images: { resolveUser: async () => ({ uid: 0, gid: 0, additionalGids: [] }) as never },
    logger: pino({ enabled: false }),
    stallMs: options.stallMs ?? 2000,
    deadlineMs: options.deadlineMs ?? 2000,
  })
  t.after(async () => {
    await files.close()
    await rm(dir, { recursive: true, force: true })
  })
  return { files, programs, sandbox, isIdle: () => pollUntil(async () => active === 0, 5000) }
}
