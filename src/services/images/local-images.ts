import { ArchiveFile, DecompressedCopies, identityOf, openRegular } from './archive-file.ts'
import { DockerArchive } from './docker-archive.ts'
import { DirectoryFiles } from './image-files.ts'
import type { LocalImageReference } from './image-reference.ts'
import type { ImageSource } from './image-source.ts'
import { resolveClientDirectory, resolveClientFile, type PathRules } from './local-path.ts'
import type { ResolvedManifest } from './oci-manifest.ts'
import { OciLayout } from './oci-layout.ts'

export interface LocalImage {
  source: ImageSource
  image: ResolvedManifest
}

// What is kept of an archive is its index and the image's JSON.
const maxKnown = 64

/** Images in layouts and archives on this host. An archive is looked at once and again when it has changed. */
export class LocalImages {
  readonly #rules: PathRules
  readonly #copies: DecompressedCopies
  /** Images of archives by what was asked for and the identity of the file, the latest used last. */
  readonly #known = new Map<string, LocalImage>()

  /** `tempDir` is for decompressed archives while they are read; what a crash leaves there is for the caller to clear. */
  constructor (options: { rules: PathRules, tempDir: string }) {
    this.#rules = options.rules
    this.#copies = new DecompressedCopies({ dir: options.tempDir })
  }

  /**
   * Resolves a reference for this host's platform; layers are not yet read.
   *
   * @throws BerthError invalid_argument `image_not_found`, `image_invalid`; permission_denied `image_path_not_allowed`;
   * exhausted `disk_full`.
   */
  async resolve (reference: LocalImageReference): Promise<LocalImage> {
    const { kind, path: name, tag } = reference
    if (kind === 'oci') {
      const source = new OciLayout({ files: new DirectoryFiles(await resolveClientDirectory(name, this.#rules)), name, transport: kind })
      return { source, image: await source.resolve(tag) }
    }
    const path = await resolveClientFile(name, this.#rules)
    const key = JSON.stringify([kind, name, tag, path, await this.#identify(path, name)])
    const known = this.#known.get(key)
    const local = known ?? await this.#look(reference, path)
    this.#known.delete(key)
    this.#known.set(key, local)
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= maxKnown) break
      this.#known.delete(oldest)
    }
    return local
  }

  async #look ({ kind, path: name, tag }: LocalImageReference, path: string): Promise<LocalImage> {
    const isDocker = kind === 'docker-archive'
    const files = new ArchiveFile({ path, name, links: isDocker ? 'contain' : 'refuse', copies: this.#copies })
    const source = isDocker ? new DockerArchive({ files, name }) : new OciLayout({ files, name, transport: kind })
    await using held = source.hold()
    void held
    return { source, image: await source.resolve(tag) }
  }

  async #identify (path: string, name: string): Promise<string> {
    await using file = await openRegular(path, name)
    return identityOf(file)
  }
}
