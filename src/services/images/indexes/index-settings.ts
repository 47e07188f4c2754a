/** Where the indexes of layers are kept, as plain JSON; the files are read by who uses them. */
export interface IndexSettings {
  /** On this host. */
  dir: string
  /** As BERTH_IMAGE_INDEX_STORE has it: empty for none. */
  store: string
  /** Of the key that the fleet shares; empty for none. */
  keyFile: string
  /** In the format of AWS's shared credentials file, for an S3 store; empty for none. */
  credentialsFile: string
}

/** A bucket, or a part of one, of an S3-compatible store. */
export interface S3Location {
  bucket: string
  /** Without slashes at its ends; may be empty. */
  prefix: string
  endpoint: URL
  region: string
  /** Whether the bucket is in the path rather than in the host's name. */
  isPathStyle: boolean
  /** Section of the credentials file. */
  profile: string
}

export type IndexStoreLocation = { kind: 'none' } | { kind: 'registry' } | { kind: 's3', location: S3Location }

const parameters = new Set(['endpoint', 'region', 'pathStyle', 'profile'])
const storeForms = 'give registry or s3://BUCKET/PREFIX?region=REGION&endpoint=https://HOST:PORT'

/**
 * Reads `registry` or `s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1&pathStyle=true&profile=default`.
 *
 * @throws Error that says what is wrong.
 */
export function parseIndexStore (text: string): IndexStoreLocation {
  if (text === '') return { kind: 'none' }
  if (text === 'registry') return { kind: 'registry' }
  const url = text.startsWith('s3://') ? URL.parse(text) : null
  if (!url) throw new Error(storeForms)
  if (url.username !== '' || url.password !== '') throw new Error('credentials belong in the file of BERTH_IMAGE_INDEX_CREDENTIALS_FILE')
  // The rules of Amazon for names of buckets.
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(url.host)) throw new Error(`${url.host || 'nothing'} is no bucket's name; ${storeForms}`)
  const prefix = url.pathname.replace(/^\/+|\/+$/g, '')
  if (!/^(?:[\w.-]+(?:\/[\w.-]+)*)?$/.test(prefix) || /(?:^|\/)\.\.?(?:\/|$)/.test(prefix)) throw new Error('a prefix has letters, digits, ., _ and -, between single slashes')
  const unknown = [...url.searchParams.keys()].find(name => !parameters.has(name))
  if (unknown !== undefined || url.hash !== '') throw new Error(`${unknown ?? url.hash} is unknown: there are ${[...parameters].join(', ')}`)
  return { kind: 's3', location: readLocation(url.host, prefix, url.searchParams) }
}

function readLocation (bucket: string, prefix: string, query: URLSearchParams): S3Location {
  const region = query.get('region') ?? 'us-east-1'
  if (!/^[a-z0-9-]{1,40}$/.test(region)) throw new Error(`${region} is no region`)
  const given = query.get('endpoint')
  const endpoint = URL.parse(given ?? `https://s3.${region}.amazonaws.com`)
  if (!endpoint || !/^https?:$/.test(endpoint.protocol) || endpoint.search !== '' || endpoint.hash !== '' || endpoint.username !== '' || endpoint.pathname !== '/') {
    throw new Error(`${given} is no endpoint: write https://HOST:PORT`)
  }
  const pathStyle = query.get('pathStyle') ?? String(given !== null)
  if (!/^(?:true|false)$/.test(pathStyle)) throw new Error('pathStyle is true or false')
  const profile = query.get('profile') ?? 'default'
  if (!/^[\w.@-]{1,100}$/.test(profile)) throw new Error('a profile\'s name has letters, digits, ., _, @ and -')
  return { bucket, prefix, endpoint, region, isPathStyle: pathStyle === 'true', profile }
}

/** What is wrong with settings that each are right by themselves; undefined when nothing is. */
export function problemOfIndexSettings ({ store, keyFile, credentialsFile }: Omit<IndexSettings, 'dir'>): string | undefined {
  if (store === '') return undefined
  if (keyFile === '') {
    return 'BERTH_IMAGE_INDEX_STORE needs BERTH_IMAGE_INDEX_KEY_FILE: a stored index is believed only when a host with the same key made it; ' +
      'make one with (umask 077; head -c 32 /dev/urandom > /etc/berth/index.key), and give it to every host of the fleet'
  }
  if (store.startsWith('s3:') && credentialsFile === '') return 'BERTH_IMAGE_INDEX_STORE in S3 needs BERTH_IMAGE_INDEX_CREDENTIALS_FILE, in the format of ~/.aws/credentials'
  return undefined
}
