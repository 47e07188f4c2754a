/** What all routes of files take: where, and as whom. */
import { Type, type Static } from '@sinclair/typebox'
import { FilePath } from '../schemas/file.ts'
import { User } from '../schemas/sandbox.ts'
import { SandboxId, Words } from '../schemas/wire.ts'
import type { FileTarget } from '../services/files/file-requests.ts'

export const FileParams = Type.Object({ id: SandboxId }, { additionalProperties: false })

/** Of the query; `path` is in the body of a POST. */
export const whoFields = {
  user: Type.Optional({ ...User, description: 'As whom, inside: a name or an id of the sandbox\'s own. The user that the sandbox runs as, unless said' }),
  pathEncoding: Type.Optional(Words(['base64'], { description: 'Paths here are base64 of their bytes (the URL-safe alphabet is known too): for those that are not UTF-8' })),
}

export const targetFields = { path: FilePath, ...whoFields }

/** The target that a request names. */
export function targetOf (params: Static<typeof FileParams>, { path, pathEncoding, user }: { path: string } & Pick<FileTarget, 'pathEncoding' | 'user'>): FileTarget {
  return { sandboxId: params.id, path, pathEncoding, user }
}
