/** The network of a sandbox: prepared before its container starts, given back after it ended. */
export interface NetworkManager {
  /** Idempotent. Anything that cannot be enforced throws: a sandbox is never open by accident. */
  setup (sandboxId: string): Promise<void>
  /** Idempotent; a sandbox that has no network is fine. */
  tearDown (sandboxId: string): Promise<void>
}

/** No network but the sandbox's own loopback, which the OCI runtime brings up in the namespace that it makes. */
export class LoopbackNetwork implements NetworkManager {
  async setup (): Promise<void> {}
  async tearDown (): Promise<void> {}
}
