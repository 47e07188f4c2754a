import type { Readable } from 'node:stream'
import type { FileEntry } from '../schemas/file.ts'
import { isKind, type Query } from './client.ts'
import type { Shell } from './shell.ts'

/** Whose files, and as whom. */
export interface FilesOf {
  shell: Shell
  sandboxId: string
  user: string | undefined
  signal?: AbortSignal
}

export function filesPath (sandboxId: string): string {
  return `/v1/sandboxes/${sandboxId}/files`
}

/** What is at a path of a sandbox; undefined for nothing. */
export async function statInside ({ shell, sandboxId, user, signal }: FilesOf, path: string, { follow }: { follow: boolean }): Promise<FileEntry | undefined> {
  try {
    return await shell.client().request<FileEntry>('GET', `${filesPath(sandboxId)}/stat`, { query: { path, user, follow: follow ? undefined : false }, signal })
  } catch (error) {
    if (isKind(error, 'not_found') && (error as { code?: string }).code === 'path_not_found') return undefined
    throw error
  }
}

export interface FileUpload {
  path: string
  source: Readable
  sizeBytes?: number | undefined
  query: Query
}

/** Writes one file: all of it, or nothing. */
export async function sendFile ({ shell, sandboxId, user, signal }: FilesOf, { path, source, sizeBytes, query }: FileUpload): Promise<FileEntry> {
  return await shell.client().send<FileEntry>('PUT', filesPath(sandboxId), { query: { path, user, ...query }, upload: { source, type: 'application/octet-stream', sizeBytes }, signal })
}
