import { BerthError } from '../../errors.ts'
import { buildProcess, type OciProcess } from '../../host/oci-spec.ts'
import type { ImageManager } from '../images/image-manager.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import { assertVerb } from '../sandboxes/sandbox-status.ts'

export interface ExecPreparationParts {
  sandboxes: Pick<SandboxManager, 'lifecycle'>
  images: Pick<ImageManager, 'resolveUser'>
}

/** A process as a request describes it; what is left out is as the sandbox's own. */
export interface ProcessWish {
  argv: readonly string[]
  /** Over the sandbox's own. */
  env?: Readonly<Record<string, string>> | undefined
  cwd?: string | undefined
  user?: string | undefined
  /** Nothing of the sandbox's own environment, nor of the user's. */
  hasCleanEnv?: boolean
}

/**
 * The process that a request asks for in a sandbox.
 *
 * @throws BerthError not_found `sandbox_not_found` or `sandbox_deleted`; conflict `invalid_state` where it does not run; what the user's resolution throws.
 */
export async function prepareExec (parts: ExecPreparationParts, sandboxId: string, wish: ProcessWish): Promise<{ sandbox: SandboxLifecycle, process: OciProcess }> {
  const sandbox = parts.sandboxes.lifecycle(sandboxId)
  const { record } = sandbox
  if (record.deletedAt) throw new BerthError('not_found', 'sandbox_deleted', 'the sandbox has been deleted')
  assertVerb('exec in', record.status)
  const own = record.process
  if (!own) throw new Error('a running sandbox without a process in its record')
  const user = wish.user === undefined ? own : await parts.images.resolveUser({ lowerDirs: record.lowerDirs ?? [] }, wish.user)
  const home: Record<string, string> = 'home' in user && user.home !== undefined ? { HOME: user.home } : {}
  const env = wish.hasCleanEnv ? { ...wish.env } : { ...own.env, ...home, ...wish.env }
  return { sandbox, process: buildProcess({ argv: wish.argv, env, cwd: wish.cwd ?? own.cwd, user, pids: record.resources.pids }) }
}
