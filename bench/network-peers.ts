/** What a network costs others: podman with a bridge of its own, by the difference to no network. */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { mustRun } from './child.ts'
import { timed } from './contestant.ts'
import type { NetworkPlaces } from './network-places.ts'
import { PodmanStorage } from './podman-storage.ts'

export interface PodmanNetworkOptions {
  podman: string
  runsc: string
  places: NetworkPlaces
  dir: string
  n: number
  stack: ResourceStack
}

const image = 'localhost/berth-bench:network'
const network = 'bench'

/** Milliseconds that `podman run` takes longer with a network, pair by pair. runsc has none in both: what is measured is podman's part. */
export async function measurePodmanNetwork ({ podman, runsc, places, dir, n, stack }: PodmanNetworkOptions): Promise<number[]> {
  const [rootfs, networks] = [join(dir, 'rootfs'), join(dir, 'networks')]
  for (const path of [join(rootfs, 'bin'), networks]) await mkdir(path, { recursive: true })
  const storage = new PodmanStorage({ dir, podman, runsc, config: `[network]\nnetwork_config_dir = "${networks}"\n` })
  stack.defer('podman with a network', async () => {
    await storage.close()
    await rm(dir, { recursive: true, force: true })
  })
  await storage.open()
  const ipam = { type: 'host-local', dataDir: join(dir, 'leases'), routes: [{ dst: '0.0.0.0/0' }], ranges: [[{ subnet: '10.89.0.0/16' }]] }
  await writeFile(join(networks, 'bench.conflist'), JSON.stringify({
    cniVersion: '0.4.0',
    name: network,
    plugins: [{ type: 'bridge', bridge: 'cni-bench', isGateway: true, ipMasq: true, ipam }, { type: 'firewall' }, { type: 'tuning' }],
  }))
  const [program = '', ...before] = [...places.enter(places.host), podman, ...storage.globalArgs]
  const run = async (...args: string[]) => await mustRun(program, [...before, ...args], { env: storage.env })
  const busybox = (await mustRun('sh', ['-c', 'command -v busybox'])).stdout.trim()
  await mustRun('cp', [busybox, join(rootfs, 'bin', 'true')])
  const archive = join(dir, 'rootfs.tar')
  await mustRun('tar', ['--directory', rootfs, '--create', '--file', archive, '.'])
  await run('import', archive, image)
  const durations: number[] = []
  for (let round = -1; round < n; round++) {
    let added = 0
    for (const name of round % 2 === 0 ? ['none', network] : [network, 'none']) {
      const durationMs = await timed(() => run('run', '--rm', `--network=${name}`, image, '/bin/true'))
      added += name === network ? durationMs : -durationMs
    }
    if (round >= 0) durations.push(added)
  }
  return durations
}
