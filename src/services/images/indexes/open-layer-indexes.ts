import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import type { RegistryConnections } from '../registry/registry-connections.ts'
import { readAwsCredentials } from './aws-credentials.ts'
import { readIndexKey, type IndexKey } from './index-key.ts'
import { parseIndexStore, problemOfIndexSettings, type IndexSettings } from './index-settings.ts'
import { LayerIndexes } from './layer-indexes.ts'
import { RegistryIndexStore } from './registry-index-store.ts'
import { RemoteIndexes } from './remote-indexes.ts'
import type { RemoteIndexStore } from './remote-index-store.ts'
import { S3IndexStore } from './s3-index-store.ts'

export interface OpenLayerIndexesOptions {
  /** How stores are reached; closed by who made them. */
  connections: RegistryConnections
  logger: Logger
}

/**
 * The indexes by their settings, ready for use. A store whose key or settings cannot be used is not used at all, and the log says why: images
 * are still to start, each host with its own indexes.
 */
export async function openLayerIndexes (settings: IndexSettings, options: OpenLayerIndexesOptions): Promise<LayerIndexes> {
  const { logger } = options
  let remote: RemoteIndexes | undefined
  try {
    const opened = await openStore(settings, options.connections)
    remote = opened && new RemoteIndexes({ ...opened, logger })
  } catch (error) {
    logger.error({ err: error }, 'image indexes are not shared')
  }
  const indexes = new LayerIndexes({ dir: settings.dir, remote, logger })
  await indexes.open()
  return indexes
}

/**
 * Checks what a configuration names, for the start of the daemon.
 *
 * @throws BerthError invalid_argument `invalid_config`.
 */
export async function checkIndexSettings (settings: IndexSettings): Promise<void> {
  const { store, credentialsFile } = settings
  const location = await withProblem('BERTH_IMAGE_INDEX_STORE', async () => parseIndexStore(store))
  const problem = problemOfIndexSettings(settings)
  if (problem !== undefined) throw invalidConfig(problem)
  if (location.kind !== 'none') await readKey(settings)
  if (location.kind === 's3') await withProblem('BERTH_IMAGE_INDEX_CREDENTIALS_FILE', () => readAwsCredentials(credentialsFile, location.location.profile))
}

async function openStore (settings: IndexSettings, connections: RegistryConnections): Promise<{ store: RemoteIndexStore, key: IndexKey } | undefined> {
  const parsed = parseIndexStore(settings.store)
  if (parsed.kind === 'none') return undefined
  const problem = problemOfIndexSettings(settings)
  if (problem !== undefined) throw invalidConfig(problem)
  const key = await readKey(settings)
  if (parsed.kind === 'registry') return { store: new RegistryIndexStore({ connections }), key }
  const { location } = parsed
  return { store: new S3IndexStore({ location, connections, credentials: () => readAwsCredentials(settings.credentialsFile, location.profile) }), key }
}

function readKey ({ keyFile }: IndexSettings): Promise<IndexKey> {
  return withProblem('BERTH_IMAGE_INDEX_KEY_FILE', () => readIndexKey(keyFile))
}

async function withProblem<T> (variable: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw invalidConfig(`${variable}: ${(error as Error).message}`)
  }
}

function invalidConfig (problem: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_config', problem)
}
