/** How one gets a container of an image without Berth: podman, and skopeo with umoci and runsc by hand. Each round begins with nothing. */
import { readFile, rm, writeFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { flagsWithoutNetwork } from './bare-runsc.ts'
import { timeToOutput, mustRun, runChild } from './child.ts'
import { timed } from './contestant.ts'
import { firstCommand, firstOutput } from './image-recipe.ts'
import type { ImageSamples, ImageSource } from './image-samples.ts'
import { PodmanStorage } from './podman-storage.ts'

const pullWithinMs = 10 * 60_000

export interface RivalOptions {
  /** Made here, and removed with all that is below. */
  dir: string
  runsc: string
  samples: ImageSamples
}

/** `podman pull`, then `podman run` with the same runtime. */
export async function measurePodman (source: ImageSource, { dir, runsc, podman, samples }: RivalOptions & { podman: string }): Promise<void> {
  const storage = new PodmanStorage({ dir, podman, runsc })
  const { env, globalArgs } = storage
  await storage.open()
  try {
    samples.add(source.link, 'podman pull', await timed(() =>
      mustRun(podman, [...globalArgs, 'pull', '--quiet', '--tls-verify=false', source.reference], { env, timeout: pullWithinMs })))
    const run = [...globalArgs, 'run', '--network=none', '--pull=never', source.reference, ...firstCommand]
    samples.add(source.link, 'podman start', await timeToOutput(podman, run, firstOutput, { env }))
  } finally {
    await storage.close()
    await rm(dir, { recursive: true, force: true })
  }
}

/** `skopeo copy` into a layout, `umoci unpack`, and `runsc run` of the bundle. */
export async function measureSkopeo (source: ImageSource, { dir, runsc, samples }: RivalOptions): Promise<void> {
  const layout = join(dir, 'layout')
  const bundle = join(dir, 'bundle')
  const root = join(dir, 'runsc')
  const id = 'berth-bench-image'
  const globalArgs = ['--root', root, ...flagsWithoutNetwork()]
  await mkdir(dir, { recursive: true })
  try {
    samples.add(source.link, 'skopeo and umoci', await timed(async () => {
      await mustRun('skopeo', ['copy', '--quiet', '--src-tls-verify=false', `docker://${source.reference}`, `oci:${layout}:v1`], { timeout: pullWithinMs })
      await mustRun('umoci', ['unpack', '--image', `${layout}:v1`, bundle], { timeout: pullWithinMs })
    }))
    const config = JSON.parse(await readFile(join(bundle, 'config.json'), 'utf8')) as { process: object }
    await writeFile(join(bundle, 'config.json'), JSON.stringify({ ...config, process: { ...config.process, args: firstCommand, terminal: false } }))
    samples.add(source.link, 'skopeo start', await timeToOutput(runsc, [...globalArgs, 'run', '--bundle', bundle, id], firstOutput))
  } finally {
    await runChild(runsc, [...globalArgs, 'delete', '--force', id])
    await rm(dir, { recursive: true, force: true })
  }
}
