/** Inside a sandbox: terminals and files, against node-pty and cat by hand on the same runtime, in the very same sandbox. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { runtimeProfiles } from '../src/host/oci-runtime.ts'
import type { ExecResult } from '../src/schemas/exec.ts'
import { BerthDaemon } from './berth-daemon.ts'
import { mustBe } from './contestant.ts'
import { measureFiles } from './inside-files.ts'
import { measureIdleTerminals } from './inside-memory.ts'
import { measureEchoes, measureReplay, measureTerminalThroughput } from './inside-terminals.ts'
import type { TaskOutcome } from './tasks.ts'

export const insideParts = ['key', 'output', 'replay', 'idle', 'files'] as const
export type InsidePart = typeof insideParts[number]

export interface InsideOptions {
  parts: readonly InsidePart[]
  rounds: number
  /** Sizes a tenth of those that the targets are for. */
  isQuick: boolean
  dir: string
  stack: ResourceStack
  programs: { runsc: string }
  signal: AbortSignal
  progress: (text: string) => void
}

/** A sandbox of ours, and how programs are run in it with the runtime by hand. */
export interface InsideBench extends Omit<InsideOptions, 'parts'> {
  daemon: BerthDaemon
  sandboxId: string
  /** The runtime's command that runs this in the sandbox; with `isTerminal` at the terminal that is its own. */
  byHand: (argv: string[], isTerminal?: boolean) => Promise<string[]>
  /** Runs a program in the sandbox to its good end; answers what it said. */
  run: (argv: string[]) => Promise<string>
}

const resources = { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 2048 }

export async function measureInside ({ parts, ...options }: InsideOptions): Promise<TaskOutcome> {
  const { dir, stack, signal, progress } = options
  const outcome: TaskOutcome = { claims: [], notes: [] }
  await mkdir(dir, { recursive: true })
  const daemon = new BerthDaemon(join(dir, 'daemon'))
  stack.defer('the daemon of terminals and files', () => daemon.close())
  await daemon.start()
  const run = async (part: InsidePart, measure: (bench: InsideBench) => Promise<TaskOutcome>) => {
    if (!parts.includes(part)) return
    signal.throwIfAborted()
    progress(`inside: ${part}`)
    const { id } = await daemon.create({ resources })
    const { claims, notes } = await measure(openBench(options, daemon, id))
    await daemon.remove(id)
    outcome.claims.push(...claims)
    outcome.notes.push(...notes)
  }
  await run('key', measureEchoes)
  await run('output', measureTerminalThroughput)
  await run('replay', measureReplay)
  await run('idle', measureIdleTerminals)
  await run('files', measureFiles)
  return outcome
}

function openBench (options: Omit<InsideOptions, 'parts'>, daemon: BerthDaemon, sandboxId: string): InsideBench {
  let count = 0
  return {
    ...options,
    daemon,
    sandboxId,
    byHand: async (argv, isTerminal = false) => {
      const config = JSON.parse(await readFile(join(daemon.stateDir, 'sandboxes', sandboxId, 'bundle/config.json'), 'utf8')) as { process: { env: string[] } }
      const path = join(options.dir, `process-${sandboxId}-${count++}.json`)
      await writeFile(path, JSON.stringify({ ...config.process, args: argv, terminal: isTerminal, env: [...config.process.env, 'TERM=xterm-256color'] }))
      // The daemon's own containers are named in the runtime's state as the sandbox is.
      return [options.programs.runsc, '--root', join(daemon.runDir, 'runtimes/runsc'), ...runtimeProfiles['runsc']?.globalArgs ?? [], 'exec', '--process', path, sandboxId]
    },
    run: async argv => {
      const { exitCode, stdout, stderr } = await daemon.request<ExecResult>('POST', `/v1/sandboxes/${sandboxId}/execs?wait=true`, 200, { argv })
      mustBe(`the exit code of ${argv.join(' ')} (${stderr})`, exitCode, 0)
      return stdout
    },
  }
}
