import { open } from 'node:fs/promises'
import type { Logger } from 'pino'
import { isObject } from '../image-config.ts'
import type { RegistryCredentials } from '../layers/image-layer.ts'

/** Credentials as a file has them: what requests may bring, or an identity token for the token service. */
export type StoredCredentials = RegistryCredentials | { identityToken: string }

export interface FoundCredentials {
  credentials?: StoredCredentials
  /** Why there may be credentials that cannot be used, as parts of a message. */
  notes: string[]
}

interface AuthFile {
  /** By namespace: `docker.io`, `docker.io/library`, `docker.io/library/alpine`. */
  entries: Map<string, StoredCredentials>
  /** Registries whose password is in a credential helper; `*` is every registry. */
  helpers: Set<string>
  problem?: string
}

const maxFileBytes = 1024 ** 2
const empty: AuthFile = { entries: new Map(), helpers: new Set() }
// How Docker's own tools have called one and the same registry.
const hubNames = new Set(['index.docker.io', 'registry-1.docker.io'])

/** Files in the format of Docker's config.json and containers-auth.json(5); read again when they have changed. */
export class CredentialFiles {
  readonly #paths: readonly string[]
  readonly #logger: Logger | undefined
  readonly #read = new Map<string, { version: string, file: AuthFile }>()

  constructor (options: { paths: readonly string[], logger?: Logger | undefined }) {
    this.#paths = options.paths
    this.#logger = options.logger
  }

  /** The credentials of the most specific namespace of the first file that has any for this repository. Never fails. */
  async find (registry: string, repository: string): Promise<FoundCredentials> {
    const notes: string[] = []
    for (const path of this.#paths) {
      const file = await this.#load(path)
      if (file.problem !== undefined) notes.push(file.problem)
      for (const namespace of namespacesOf(registry, repository)) {
        const credentials = file.entries.get(namespace)
        if (credentials) return { credentials, notes }
      }
      if (file.helpers.has(registry) || file.helpers.has('*')) {
        notes.push('an auth file names a credential helper for it, and helpers are not run: put the password itself into the file')
      }
    }
    return { notes }
  }

  async #load (path: string): Promise<AuthFile> {
    const known = this.#read.get(path)
    let version = 'none'
    let file = empty
    try {
      await using handle = await open(path)
      const stats = await handle.stat({ bigint: true })
      version = `${stats.ino}/${stats.size}/${stats.mtimeNs}`
      if (known?.version === version) return known.file
      file = stats.isFile() && stats.size <= maxFileBytes ? parseAuthFile(await handle.readFile('utf8')) : { ...empty, problem: 'an auth file is no file, or too large' }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' || code === 'ENOTDIR') return empty
      version = `unreadable ${code}`
      file = { ...empty, problem: 'an auth file cannot be read' }
    }
    // Once per version of the file; its content is never logged.
    if (known?.version !== version && file.problem !== undefined) this.#logger?.warn({ path, problem: file.problem }, 'auth file ignored')
    this.#read.set(path, { version, file })
    return file
  }
}

/** Reads the text of a config.json; what is malformed is left out and said in `problem`. */
export function parseAuthFile (text: string): AuthFile {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    // The parser's message quotes the content.
  }
  if (!isObject(json)) return { ...empty, problem: 'an auth file is not JSON' }
  const file: AuthFile = { entries: new Map(), helpers: new Set() }
  for (const [key, value] of Object.entries(isObject(json.auths) ? json.auths : {})) {
    const credentials = readEntry(value)
    const namespace = namespaceOf(key)
    if (credentials === 'malformed') file.problem = 'an auth file has an entry that cannot be read'
    // Several spellings of one registry: the plain one wins.
    else if (credentials && (!file.entries.has(namespace) || key === namespace)) file.entries.set(namespace, credentials)
  }
  for (const key of Object.keys(isObject(json.credHelpers) ? json.credHelpers : {})) file.helpers.add(namespaceOf(key))
  if (typeof json.credsStore === 'string' && json.credsStore !== '') file.helpers.add('*')
  return file
}

function readEntry (value: unknown): StoredCredentials | 'malformed' | undefined {
  if (!isObject(value)) return 'malformed'
  const { auth, username, password, identitytoken, registrytoken } = value
  if (isText(identitytoken)) return { identityToken: identitytoken }
  if (isText(registrytoken)) return { token: registrytoken }
  if (isText(username) && isText(password)) return { username, password }
  // `{}` is what `docker login` leaves when a helper has the password.
  if (!isText(auth)) return undefined
  const plain = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '')
  const colon = plain.indexOf(':')
  if (colon < 1) return 'malformed'
  return { username: plain.slice(0, colon), password: plain.slice(colon + 1) }
}

/** `https://index.docker.io/v1/` → `docker.io`, `ghcr.io/Acme` → itself. */
function namespaceOf (key: string): string {
  const withoutScheme = key.replace(/^https?:\/\//, '')
  const isUrl = withoutScheme !== key
  const [host = '', ...path] = withoutScheme.replace(/\/+$/, '').split('/')
  const registry = hubNames.has(host.toLowerCase()) ? 'docker.io' : host.toLowerCase()
  // With a scheme, or with the API's version behind it, the path is that of the API.
  return isUrl || /^v[12]$/.test(path[0] ?? '') ? registry : [registry, ...path].join('/')
}

function namespacesOf (registry: string, repository: string): string[] {
  const parts = [registry, ...repository.split('/')]
  return parts.map((_, dropped) => parts.slice(0, parts.length - dropped).join('/'))
}

function isText (value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}
