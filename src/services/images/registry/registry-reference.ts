import { BerthError } from '../../../errors.ts'

/** An image in a registry, normalised: every part that Docker fills in is filled in. */
export interface RegistryReference {
  /** `docker.io`, `ghcr.io`, `127.0.0.1:5000`, `[::1]:5000`: lower case, with its port if one was written. */
  registry: string
  /** As the registry knows it: `library/alpine`. */
  repository: string
  /** Present unless the reference names a digest alone. */
  tag?: string
  /** `sha256:<hex>`; decides where there is a tag too. */
  digest?: string
}

const maxReferenceLength = 1024
// NameTotalLengthMax of the distribution project: registry and repository together.
const maxNameLength = 255
const tagPattern = /^\w[\w.-]{0,127}$/
const digestPattern = /^sha256:[a-f0-9]{64}$/
const componentPattern = /^[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*$/
const hostPattern = /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[A-Fa-f0-9:.]+\])(?::(\d{1,5}))?$/
const imageIdPattern = /^[a-f0-9]{64}$/

/**
 * Reads a reference as Docker does: `alpine` is docker.io/library/alpine:latest (grammar: distribution/reference).
 * A leading `docker://` is accepted.
 *
 * @throws BerthError invalid_argument `invalid_image_reference`, for any text that is none.
 */
export function parseRegistryReference (text: string): RegistryReference {
  // Control characters have no place in a reference, and would end up in error messages and logs.
  // eslint-disable-next-line no-control-regex
  if (text.length === 0 || text.length > maxReferenceLength || /[\u0000-\u0020\u007f-\u009f]/.test(text)) {
    throw invalid(`an image reference has 1 to ${maxReferenceLength} characters, no spaces and no control characters`)
  }
  const { name, tag, digest } = splitReference(text.startsWith('docker://') ? text.slice('docker://'.length) : text)
  if (digest !== undefined && !digestPattern.test(digest)) throw invalid(`${text}: a digest is sha256: and 64 digits of lower-case hexadecimal`)
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid(`${text}: a tag has up to 128 letters, digits, _, . and -, and begins with none of the last two`)
  if (name.includes('://')) throw invalid(`${text} is a URL; write the image without its scheme, as in ghcr.io/owner/image:tag`)
  const { registry, repository } = splitName(name, text)
  if (`${registry}/${repository}`.length > maxNameLength) throw invalid(`${text.slice(0, 80)}…: the name is longer than ${maxNameLength} characters`)
  const reference: RegistryReference = { registry, repository }
  if (tag !== undefined) reference.tag = tag
  if (digest !== undefined) reference.digest = digest
  if (tag === undefined && digest === undefined) reference.tag = 'latest'
  return reference
}

/** The full form, which parses to the same reference. */
export function formatRegistryReference (reference: RegistryReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`
  return `${reference.registry}/${reference.repository}${tag}${digest}`
}

function splitReference (text: string): { name: string, tag?: string, digest?: string } {
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : text.slice(at + 1)
  const rest = at < 0 ? text : text.slice(0, at)
  // A colon before the last slash belongs to a port.
  const colon = rest.indexOf(':', rest.lastIndexOf('/') + 1)
  return colon < 0 ? { name: rest, digest } : { name: rest.slice(0, colon), tag: rest.slice(colon + 1), digest }
}

function splitName (name: string, text: string): { registry: string, repository: string } {
  const slash = name.indexOf('/')
  const first = slash < 0 ? '' : name.slice(0, slash)
  const namesRegistry = /[.:A-Z]/.test(first) || first === 'localhost'
  const registry = namesRegistry ? registryOf(first, text) : 'docker.io'
  let repository = namesRegistry ? name.slice(slash + 1) : name
  checkRepository(repository, text)
  if (registry === 'docker.io' && !repository.includes('/')) {
    if (imageIdPattern.test(repository)) throw invalid(`${text} is the id of an image; a registry knows images by name, or as name@sha256:<digest>`)
    repository = `library/${repository}`
  }
  return { registry, repository }
}

function registryOf (host: string, text: string): string {
  const match = hostPattern.exec(host)
  const port = match?.[1] === undefined ? 443 : Number(match[1])
  if (!match || port < 1 || port > 65535 || !URL.canParse(`https://${host}`)) throw invalid(`${text}: ${host} is not the name of a registry (host, host:port or [address]:port)`)
  const registry = host.toLowerCase()
  return registry === 'index.docker.io' ? 'docker.io' : registry
}

function checkRepository (repository: string, text: string): void {
  if (repository.split('/').every(part => componentPattern.test(part))) return
  if (/[A-Z]/.test(repository)) throw invalid(`${text}: the name of a repository is lower case; write ${repository.toLowerCase()}`)
  throw invalid(`${text}: a repository is made of lower-case letters and digits, with ., _, __ or - between them and / between its parts`)
}

function invalid (message: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_image_reference', message)
}
