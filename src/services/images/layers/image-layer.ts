/** The words that those who resolve, fetch, build, serve and mount image layers share. */

/** One layer as an image's manifest and configuration name it (OCI image-spec, manifest.md and config.md). */
export interface LayerDescriptor {
  /** `sha256:<hex>` of the blob as it is transferred; what everything on disk is keyed by. */
  digest: string
  mediaType: string
  /** Size of the blob as it is transferred. */
  sizeBytes: number
  /** `sha256:<hex>` of the uncompressed tar. */
  diffId: string
}

/** A place where a blob can be read. Digests are checked whatever it says. */
export type BlobSource =
  /** A repository of a registry: `registry` as the normalised reference has it (`docker.io`, `127.0.0.1:5000`). */
  | { kind: 'registry', registry: string, repository: string }
  /** Part of a regular file on this host: a blob of a layout or a member of an archive. */
  | { kind: 'file', path: string, offsetBytes: number }

/** A layer with the places where its blob can be had, to be tried in this order. */
export interface SourcedLayer extends LayerDescriptor {
  sources: BlobSource[]
}

/** What a request brings along for a registry. Kept in memory alone: never on disk, never in a log. */
export type RegistryCredentials =
  | { username: string, password: string }
  /** A bearer token that the registry itself takes. */
  | { token: string }

/**
 * How far a layer is on this host:
 *
 *     absent → fetching → complete          eager: the whole blob is streamed, its index made
 *     absent → lazy ────→ complete          its index is at hand; content comes when it is read or filled in
 */
export type LayerState = 'absent' | 'fetching' | 'lazy' | 'complete'

export interface LayerProgress {
  digest: string
  state: LayerState
  /** Bytes of the blob that have come from its source, and its size. */
  fetchedBytes: number
  sizeBytes: number
  /** Bytes of the uncompressed tar that are on this host, and its size; the size is 0 while it is not known. */
  localBytes: number
  totalBytes: number
}

/** `lazy`: usable as soon as its index is at hand. `eager`: usable when all of it is here. */
export type PullMode = 'lazy' | 'eager'
