/** Several commands in one go. */
import type { RedisClient } from './redis-types.ts'

export type RedisCommand = readonly [name: string, ...args: (string | number | Buffer)[]]

/** Carries out independent commands, in one round trip where one server has all keys. Answers in their order. @throws the first error. */
export async function runBatch (client: RedisClient, commands: readonly RedisCommand[]): Promise<unknown[]> {
  // The keys of a cluster's pipeline must lie on one node.
  if (client.isCluster) return await Promise.all(commands.map(([name, ...args]) => client.call(name, args)))
  const pipeline = client.pipeline()
  for (const [name, ...args] of commands) pipeline.call(name, ...args)
  return resultsOf(await pipeline.exec())
}

/** What a pipeline answered. @throws the first error in it. */
export function resultsOf (answers: readonly [error: Error | null, result: unknown][] | null): unknown[] {
  return (answers ?? []).map(([error, result]) => {
    if (error) throw error
    return result
  })
}
