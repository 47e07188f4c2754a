import type { ExecManager } from '../services/execs/exec-manager.ts'
import type { SandboxManager } from '../services/sandboxes/sandbox-manager.ts'

/** Runs a sandbox on the base image, and says whether gVisor was its kernel, and what it showed. */
export async function proveSandbox (sandboxes: SandboxManager, execs: ExecManager): Promise<{ ok: boolean, detail: string, durationMs: number }> {
  const startedMs = performance.now()
  const { id } = await sandboxes.create({ image: 'berth/base' })
  const { exitCode, stdout } = await execs.run(id, { argv: ['sh', '-c', 'uname -r; dmesg | head -n 1'] })
  await sandboxes.remove(id, { force: true })
  const [kernel = '', firstMessage = ''] = stdout.trim().split('\n')
  const ok = exitCode === 0 && /gVisor/i.test(firstMessage)
  return { ok, detail: `kernel ${kernel}: ${firstMessage.replace(/^\[[^\]]*\]\s*/, '')}`, durationMs: performance.now() - startedMs }
}
