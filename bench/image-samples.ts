/** What the image benchmark measures, collected over its rounds. */

/** `wan`: 10 ms before each answer, 60 MB/s for all together; `loopback`: the registry as it is. */
export type Link = 'wan' | 'loopback'

export type ColdStart = 'cold, index here' | 'cold, index and profile here' | 'cold, index in the registry' | 'cold, index and profile in the registry'

export type Measure =
  | 'eager pull'
  | 'podman pull'
  | 'podman start'
  | 'skopeo and umoci'
  | 'skopeo start'
  | ColdStart
  | `${ColdStart}, bytes`
  | 'first start of a complete image'
  | 'warm'
  | 'after a restart of the daemon'
  | 'rootfs step'
  | 'image step'
  | 'requests of a second sandbox'
  | 'first read'
  | 'first read of a directory'
  | 'repeated read'
  | 'repeated read of a directory'

export class ImageSamples {
  readonly #samples = new Map<string, number[]>()

  add (link: Link, measure: Measure, value: number): void {
    const name = `${link} ${measure}`
    const values = this.#samples.get(name)
    if (values) values.push(value)
    else this.#samples.set(name, [value])
  }

  /** Empty when nothing was measured. */
  of (link: Link, measure: Measure): number[] {
    return this.#samples.get(`${link} ${measure}`) ?? []
  }

  /** Sums of what each round took for several measures that follow each other. */
  sumOf (link: Link, ...measures: Measure[]): number[] {
    const [first = [], ...others] = measures.map(measure => this.of(link, measure))
    return first.map((value, round) => others.reduce((sum, values) => sum + (values[round] ?? NaN), value))
  }
}

/** Where a contestant gets the image. */
export interface ImageSource {
  link: Link
  reference: string
}

/** Since the beginning. */
export interface Traffic { requests: number, bytes: number }
