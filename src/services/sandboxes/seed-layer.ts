/** The topmost lower layer of a sandbox's rootfs: what Berth puts there. What the sandbox writes over it lies in its upper layer. */
import { chown, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { initMountPoint } from '../../host/oci-spec.ts'
import type { SandboxRecord } from './sandbox-record.ts'

/** By this name a sandbox that may knows the host's API. */
const gatewayName = 'gateway.internal'

/** The workspace, mount points, and the host name. */
export async function writeSeed (record: SandboxRecord, seedDir: string): Promise<void> {
  const etc = join(seedDir, 'etc')
  const workspace = join(seedDir, 'workspace')
  // Real directories hide what an image has by these names: runc would follow a link at /dev and write on the host.
  const mountPoints = [initMountPoint, 'dev', 'proc', 'sys'].map(name => join(seedDir, name))
  for (const dir of [seedDir, etc, workspace, ...mountPoints]) await mkdir(dir, { recursive: true, mode: 0o755 })
  await writeFile(join(etc, 'hostname'), `${record.hostname}\n`)
  await chown(workspace, record.process?.uid ?? 1000, record.process?.gid ?? 1000)
}

/** Its own name, and where other names are asked for. Its addresses are others in each run: the layer must not be mounted. */
export async function writeNames (record: SandboxRecord, seedDir: string): Promise<void> {
  const { heldNetwork, hostname } = record
  if (!heldNetwork) throw new Error('the network step has not run')
  const { ipv4, ipv6, gateway4, gateway6 } = heldNetwork
  const mayReachApi = record.network?.gateway ?? false
  const hosts: Array<readonly [address: string | undefined, names: string]> = [
    ['127.0.0.1', 'localhost'], ['::1', 'localhost ip6-localhost ip6-loopback'],
    [ipv4, hostname], [ipv6, hostname],
    [mayReachApi ? gateway4 : undefined, gatewayName], [mayReachApi ? gateway6 : undefined, gatewayName],
  ]
  const etc = join(seedDir, 'etc')
  await Promise.all([
    writeFile(join(etc, 'hosts'), hosts.filter(([address]) => address !== undefined).map(([address, names]) => `${address}\t${names}\n`).join('')),
    writeFile(join(etc, 'resolv.conf'), `nameserver ${gateway4}\noptions timeout:2 attempts:3\n`),
  ])
}
