/** An image on the wire: what is on this host of it, how it is pulled, and how room is made. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp, Words, noNul, pattern } from './wire.ts'

const maxBytes = Number.MAX_SAFE_INTEGER
// Tokens of registries are JWTs of a few KiB; what is longer does not fit into an HTTP header anyway.
const maxSecretLength = 8192
const maxUnusedMs = 10 * 365 * 24 * 3600 * 1000

const bytes = (description: string) => Type.Integer({ minimum: 0, maximum: maxBytes, description })

export const ImageName = Type.String({
  minLength: 1,
  maxLength: 1024,
  pattern: noNul,
  description: 'Image reference: a name in a registry, [host[:port]/]name[:tag][@sha256:…], where a bare name means Docker Hub and no tag means latest; or berth/base, oci:<layout>[:tag], oci-archive:<file>[:tag], docker-archive:<file>[:tag], dir:<rootfs>',
  examples: ['python:3.12', `ghcr.io/acme/agent@sha256:${'0123456789abcdef'.repeat(4)}`, 'registry:5000/team/img:tag', 'berth/base'],
})

export const ImageDigest = Type.String({
  pattern: pattern('^sha256:[a-f0-9]{64}$', 'must be a digest: sha256: and 64 hexadecimal digits'),
  description: 'Digest of the image\'s manifest for this platform',
  examples: [`sha256:${'0123456789abcdef'.repeat(4)}`],
})

const secret = (description: string) => Type.String({
  minLength: 1,
  maxLength: maxSecretLength,
  pattern: pattern('^[^\\u0000\\r\\n]+$', 'must not contain NUL characters or line ends'),
  writeOnly: true,
  description,
})

/**
 * What a request brings along for a registry: a name with its password, or a token.
 * One object with rules and no union, so that a message about it speaks of what was written.
 */
export const RegistryCredentials = Type.Unsafe<{ username: string, password: string } | { token: string }>({
  $id: 'RegistryCredentials',
  type: 'object',
  properties: {
    username: Type.String({ minLength: 1, maxLength: 256, pattern: pattern('^[^\\u0000-\\u001f\\u007f:]+$', 'must not contain colons or control characters'), description: 'Goes with password' }),
    password: secret('Goes with username'),
    token: secret('A bearer token that the registry itself takes; in the place of username and password'),
  },
  additionalProperties: false,
  minProperties: 1,
  maxProperties: 2,
  dependentRequired: { username: ['password'], password: ['username'] },
  writeOnly: true,
  description: 'For the image\'s registry: {username, password} or {token}. Used for this request alone; never stored, logged or answered',
})
export type RegistryCredentials = Static<typeof RegistryCredentials>

export const PullPolicy = Words(['missing', 'always', 'never'], {
  default: 'missing',
  description: 'missing: use what is on this host, else pull. always: ask the registry what the tag stands for; content that is here is not fetched again. never: use what is on this host or fail with image_not_found',
})

export const ImageState = Words(['complete', 'partial'], {
  description: 'complete: all of it is on this host. partial: usable, and content comes when it is read or filled in',
})

export const LayerState = Words(['absent', 'fetching', 'lazy', 'complete'], {
  description: 'fetching: the whole blob is on its way. lazy: usable, its index is here and content comes when it is read or filled in',
})

export const Image = Type.Object({
  digest: ImageDigest,
  references: Type.Array(Type.String(), { description: 'Names by which it was asked for on this host' }),
  kind: Words(['base', 'unpacked', 'layered'], { description: 'base: berth/base. unpacked: one directory. layered: layers that images share' }),
  state: ImageState,
  sizeBytes: bytes('On this host\'s disk when it is complete'),
  localBytes: bytes('On this host\'s disk now; layers that other images share count for each'),
  createdAt: Timestamp,
  lastUsedAt: Timestamp,
  leases: Type.Integer({ minimum: 0, description: 'How many sandboxes use it; it is removed only at 0' }),
}, { $id: 'Image', additionalProperties: false })
export type Image = Static<typeof Image>

export const ImagePage = Page(Image, 'ImagePage')
export type ImagePage = Static<typeof ImagePage>

export const ImageLayer = Type.Object({
  digest: Type.String({ description: 'Of the blob as it is transferred' }),
  mediaType: Type.String(),
  sizeBytes: bytes('Of the blob as it is transferred'),
  totalBytes: bytes('Uncompressed; 0 while it is not known'),
  localBytes: bytes('Of the uncompressed content, on this host'),
  state: LayerState,
}, { $id: 'ImageLayer', additionalProperties: false })
export type ImageLayer = Static<typeof ImageLayer>

const ImageRunConfig = Type.Object({
  env: Type.Record(Type.String(), Type.String()),
  entrypoint: Type.Optional(Type.Array(Type.String())),
  cmd: Type.Optional(Type.Array(Type.String())),
  user: Type.Optional(Type.String()),
  workingDir: Type.Optional(Type.String()),
  stopSignal: Type.Optional(Type.String()),
}, { additionalProperties: false, description: 'How the image wants to be run' })

export const ImageDetail = Type.Composite([Image, Type.Object({
  config: ImageRunConfig,
  layers: Type.Array(ImageLayer, { description: 'The bottom one first; empty for an image that is not layered' }),
  leaseIds: Type.Array(Type.String(), { description: 'Ids of the sandboxes that use it' }),
})], { $id: 'ImageDetail', additionalProperties: false })
export type ImageDetail = Static<typeof ImageDetail>

export const ImagePull = Type.Object({
  reference: ImageName,
  mode: Type.Optional(Words(['lazy', 'eager'], { default: 'lazy', description: 'lazy: done when the image can be used. eager: done when all of it is on this host' })),
  credentials: Type.Optional(RegistryCredentials),
}, { $id: 'ImagePull', additionalProperties: false })
export type ImagePull = Static<typeof ImagePull>

export const LayerPullProgress = Type.Object({
  digest: Type.String(),
  state: LayerState,
  fetchedBytes: bytes('Of the blob, as it is transferred'),
  sizeBytes: bytes('Of the blob, as it is transferred'),
  localBytes: bytes('Of the uncompressed content, on this host'),
  totalBytes: bytes('Uncompressed; 0 while it is not known'),
}, { $id: 'LayerPullProgress', additionalProperties: false })
export type LayerPullProgress = Static<typeof LayerPullProgress>

export const PullProgress = Type.Object({
  phase: Words(['resolving', 'fetching', 'indexing', 'done'], { description: 'resolving: asking what the reference stands for. fetching: manifest, indexes, layers. indexing: making what layers are mounted by' }),
  reference: Type.String(),
  digest: Type.Optional(ImageDigest),
  layers: Type.Array(LayerPullProgress, { description: 'The bottom one first; empty until the manifest is known' }),
  fetchedBytes: bytes('Of all layers, as they are transferred'),
  sizeBytes: bytes('Of all layers, as they are transferred; 0 until the manifest is known'),
}, { additionalProperties: false })
export type PullProgress = Static<typeof PullProgress>

/** One item of a pull's stream: progress any number of times, then the image or an error. */
export const PullEvent = Type.Union([
  Type.Composite([Type.Object({ type: Type.Literal('progress') }), PullProgress], { additionalProperties: false }),
  Type.Composite([Type.Object({ type: Type.Literal('image') }), Image], { additionalProperties: false }),
  Type.Object({
    type: Type.Literal('error'),
    code: Type.String(),
    kind: Type.String(),
    message: Type.String(),
    requestId: Type.String(),
    details: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  }, { additionalProperties: false }),
], { $id: 'PullEvent' })
export type PullEvent = Static<typeof PullEvent>

export const ImagePrune = Type.Object({
  keepBytes: Type.Optional(Type.Integer({ minimum: 0, maximum: maxBytes, description: 'Stop removing when images take at most this much; absent: remove every one that no sandbox uses' })),
  unusedForMs: Type.Optional(Type.Integer({ minimum: 0, maximum: maxUnusedMs, description: 'Only those last used at least this long ago, in milliseconds' })),
}, { $id: 'ImagePrune', additionalProperties: false })
export type ImagePrune = Static<typeof ImagePrune>

export const PruneResult = Type.Object({
  digests: Type.Array(ImageDigest, { description: 'Of the images that were removed' }),
  freedBytes: bytes('On this host\'s disk'),
}, { $id: 'PruneResult', additionalProperties: false })
export type PruneResult = Static<typeof PruneResult>

export const ImageRemoval = Type.Object({
  freedBytes: bytes('On this host\'s disk; layers that other images share stay'),
}, { $id: 'ImageRemoval', additionalProperties: false })
export type ImageRemoval = Static<typeof ImageRemoval>
