/** How many calls need an image at this moment, by digest: what keeps it from removal until a lease does. */
export class ImagePins {
  readonly #counts = new Map<string, number>()

  count (digest: string): number {
    return this.#counts.get(digest) ?? 0
  }

  /** Pins the image while the work goes on. */
  async hold<T> (digest: string, work: () => Promise<T>): Promise<T> {
    this.#counts.set(digest, this.count(digest) + 1)
    try {
      return await work()
    } finally {
      const left = this.count(digest) - 1
      if (left > 0) this.#counts.set(digest, left)
      else this.#counts.delete(digest)
    }
  }
}
