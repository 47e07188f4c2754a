import type { FileRange, ImageFiles } from './image-files.ts'
import { invalidImage, namingImage, type ImageSource } from './image-source.ts'
import type { BlobSource } from './layers/image-layer.ts'
import type { Descriptor, ResolvedManifest } from './oci-manifest.ts'

/** An image whose blobs are files each: of a directory or of an archive. */
export abstract class FileImageSource implements ImageSource {
  readonly name: string
  readonly files: ImageFiles

  /** `name` is how the client called it. */
  constructor (options: { files: ImageFiles, name: string }) {
    this.name = options.name
    this.files = options.files
  }

  abstract resolve (tag: string | undefined): Promise<ResolvedManifest>

  /** The path of a blob's file; undefined for one that is not known. */
  abstract pathOf (digest: string): string | undefined

  /** Also refuses a blob that is a link, or no file. */
  async * openBlob (blob: Descriptor): AsyncGenerator<Buffer, void, undefined> {
    await using range = await this.openRange(blob)
    yield * range.chunks()
  }

  async locateBlob (blob: Descriptor): Promise<BlobSource | undefined> {
    await using range = await this.openRange(blob)
    return range.path === undefined ? undefined : { kind: 'file', path: range.path, offsetBytes: range.offsetBytes }
  }

  hold (): AsyncDisposable {
    return this.files.hold()
  }

  /** Opens a blob of the size that its descriptor says. */
  async openRange ({ digest, size }: Descriptor): Promise<FileRange> {
    const path = this.pathOf(digest)
    const range = path === undefined ? undefined : await namingImage(this.name, () => this.files.open(path))
    if (!range) throw invalidImage(this.name, `blob ${digest} is missing`)
    if (range.sizeBytes === size) return range
    await range[Symbol.asyncDispose]()
    throw invalidImage(this.name, `blob ${digest} has ${range.sizeBytes} bytes, its descriptor says ${size}`)
  }
}
