/** Everything that a daemon asks of others passes through here, one step each. Once dead it asks nothing, and hears nothing. */
export class Lifeline {
  steps = 0
  isDead = false
  killAt: { step: number, when: 'before' | 'after' } | undefined
  readonly death = Promise.withResolvers<void>()

  async call<T> (work: () => Promise<T>): Promise<T> {
    if (this.isDead) return await never()
    const step = ++this.steps
    if (this.killAt?.step === step && this.killAt.when === 'before') return await this.#die()
    const result = await work()
    if (this.killAt?.step === step && this.killAt.when === 'after') return await this.#die()
    return this.isDead ? await never() : result
  }

  #die (): Promise<never> {
    this.isDead = true
    this.death.resolve()
    return never()
  }
}

export function never (): Promise<never> {
  return new Promise(() => {})
}

/** The object itself, but for these methods. */
export function throughLifeline<T extends object> (target: T, lifeline: Lifeline, names: ReadonlyArray<keyof T>): T {
  return new Proxy(target, {
    get (object, name) {
      const value: unknown = Reflect.get(object, name, object)
      if (typeof value !== 'function') return value
      const method = (...args: unknown[]): unknown => (value as (...args: unknown[]) => unknown).apply(object, args)
      return names.includes(name as keyof T) ? async (...args: unknown[]) => await lifeline.call(async () => await method(...args)) : method
    },
  })
}
