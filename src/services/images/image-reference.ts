import { BerthError } from '../../errors.ts'
import { formatRegistryReference, parseRegistryReference, type RegistryReference } from './registry/registry-reference.ts'

/** Where an image comes from, as a client names it. */
export type ImageReference =
  | { kind: 'base' }
  | { kind: 'dir', path: string }
  | LocalImageReference
  | { kind: 'registry', reference: RegistryReference }

/** An image in a layout or an archive on this host. */
export interface LocalImageReference {
  kind: 'oci' | 'oci-archive' | 'docker-archive'
  path: string
  tag?: string
}

/** What a client may write, as errors say it. */
const usableReferences = '[host[:port]/]name[:tag][@sha256:…] in a registry, berth/base, dir:<absolute path of a root file system>, oci:<absolute path of an OCI layout>[:tag], oci-archive:<absolute path of a tar>[:tag] or docker-archive:<absolute path of a tar>[:name:tag]'

interface ReferenceForm {
  /** Whether this row is the one that reads the reference; the first such row wins. */
  matches: (text: string) => boolean
  parse: (text: string) => ImageReference
}

const maxReferenceLength = 1024
// Unlike a name in a registry a tag of a layout is free text; this is what skopeo and umoci let one write.
const tagPattern = /^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}$/

const forms: readonly ReferenceForm[] = [
  { matches: text => text === 'berth/base', parse: () => ({ kind: 'base' }) },
  { matches: text => text.startsWith('dir:'), parse: text => ({ kind: 'dir', path: absolutePath(text, text.slice('dir:'.length)) }) },
  { matches: text => /^(?:oci|oci-archive|docker-archive):/.test(text), parse: parseLocal },
  { matches: text => /^(?:docker-daemon|containers-storage):./.test(text), parse: unsupported },
  { matches: text => /^[./]/.test(text), parse: text => { throw invalid(`${text} is not an image reference; write ${usableReferences}`) } },
  { matches: () => true, parse: text => ({ kind: 'registry', reference: parseRegistryReference(text) }) },
]

/**
 * Reads an image reference.
 *
 * @throws BerthError invalid_argument `invalid_image_reference`, or `image_source_unsupported` for one that is
 * well-formed but names a place this host cannot fetch from.
 */
export function parseImageReference (text: string): ImageReference {
  // Control characters have no place in a reference, and would end up in error messages and logs.
  // eslint-disable-next-line no-control-regex
  if (text.length === 0 || text.length > maxReferenceLength || /[\u0000-\u001f\u007f]/.test(text)) {
    throw invalid(`an image reference has 1 to ${maxReferenceLength} characters and no control characters`)
  }
  const form = forms.find(candidate => candidate.matches(text))
  if (!form) throw invalid(`${text} is not an image reference; write ${usableReferences}`)
  return form.parse(text)
}

function parseLocal (text: string): ImageReference {
  const kind = text.slice(0, text.indexOf(':')) as LocalImageReference['kind']
  const rest = text.slice(kind.length + 1)
  // The first colon ends the path, as in containers-transports(5): it cannot hold one.
  const colon = rest.indexOf(':')
  if (colon < 0) return { kind, path: absolutePath(text, rest) }
  const tag = rest.slice(colon + 1)
  if (!tagPattern.test(tag)) throw invalid(`${text}: the part behind the path's colon is not a tag`)
  return { kind, path: absolutePath(text, rest.slice(0, colon)), tag }
}

function absolutePath (text: string, path: string): string {
  if (!path.startsWith('/')) throw invalid(`${text}: the path must be absolute`)
  if (path.split('/').includes('..')) throw invalid(`${text}: the path must not contain ".."`)
  return path
}

function unsupported (text: string): never {
  throw new BerthError('invalid_argument', 'image_source_unsupported', `this host cannot fetch ${text}; images it can use are ${usableReferences}`)
}

function invalid (message: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_image_reference', message)
}

/** The name by which an image is found again: the full form of a registry's reference, any other as it was written. */
export function nameOfReference (reference: ImageReference, text: string): string {
  return reference.kind === 'registry' ? formatRegistryReference(reference.reference) : text
}
