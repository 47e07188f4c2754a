/** Files of a sandbox on the wire. */
import { Type, type Static } from '@sinclair/typebox'
import { Page, Timestamp, Words, noNul, pattern } from './wire.ts'

export const FileType = Words(['file', 'directory', 'symlink', 'fifo', 'socket', 'character_device', 'block_device', 'unknown'])
export type FileType = Static<typeof FileType>

/** 4095 bytes, in base64 too. That it is absolute is seen when it is decoded. */
export const FilePath = Type.String({ minLength: 1, maxLength: 5460, pattern: noNul, description: 'Absolute path inside the sandbox; with pathEncoding=base64 base64 of its bytes' })

export const FileMode = Type.String({ pattern: pattern('^0?[0-7]{3,4}$', 'must be octal permissions, such as 0644') })

const Encoding = Type.Optional(Words(['base64'], { description: 'There where name, path or target are not UTF-8: then all three are base64 of their bytes' }))

export const FileEntry = Type.Object({
  name: Type.String(),
  path: Type.String({ description: 'Absolute, as it was asked for' }),
  type: FileType,
  sizeBytes: Type.Integer(),
  mode: Type.String({ pattern: '^0[0-7]{3,4}$', description: 'Permissions, octal, such as 0644' }),
  uid: Type.Integer(),
  gid: Type.Integer(),
  owner: Type.Optional(Type.String({ description: 'Name of uid inside, if it has one' })),
  group: Type.Optional(Type.String({ description: 'Name of gid inside, if it has one' })),
  modifiedAt: Timestamp,
  target: Type.Optional(Type.String({ description: 'symlink: what it points to' })),
  encoding: Encoding,
}, { $id: 'FileEntry', additionalProperties: false })
export type FileEntry = Static<typeof FileEntry>

export const FilePage = Page(FileEntry, 'FilePage')
export type FilePage = Static<typeof FilePage>

export const FileMkdir = Type.Object({
  path: FilePath,
  parents: Type.Optional(Type.Boolean({ default: true, description: 'Make what is missing above it, and be content where it is there' })),
  mode: Type.Optional(Type.String({ ...FileMode, default: '0755' })),
}, { $id: 'FileMkdir', additionalProperties: false })
export type FileMkdir = Static<typeof FileMkdir>

export const FileMove = Type.Object({
  from: FilePath,
  to: FilePath,
  overwrite: Type.Optional(Type.Boolean({ default: true, description: 'false: 409 path_exists where `to` is there' })),
  parents: Type.Optional(Type.Boolean({ default: false, description: 'Make the directory of `to` where it is missing' })),
}, { $id: 'FileMove', additionalProperties: false })
export type FileMove = Static<typeof FileMove>

export const FileRemove = Type.Object({
  path: FilePath,
  recursive: Type.Optional(Type.Boolean({ default: false, description: 'With all that is in it' })),
  ignoreMissing: Type.Optional(Type.Boolean({ default: false, description: 'Be content where it is not there' })),
}, { $id: 'FileRemove', additionalProperties: false })
export type FileRemove = Static<typeof FileRemove>

export const FileChange = Type.Object({
  type: Words(['ready', 'created', 'modified', 'attributes', 'removed', 'renamed', 'overflow'], {
    description: 'ready: changes are seen from here on. renamed: `from` was its name; a name that came from, or went, outside is created or removed. overflow: changes were lost; list again',
  }),
  path: Type.String(),
  from: Type.Optional(Type.String()),
  isDirectory: Type.Optional(Type.Boolean()),
  encoding: Encoding,
}, { $id: 'FileChange', additionalProperties: false })
export type FileChange = Static<typeof FileChange>

export const FileMatch = Type.Object({
  path: Type.String(),
  type: FileType,
  sizeBytes: Type.Integer(),
  line: Type.Optional(Type.Integer({ description: 'text: which line, from 1' })),
  text: Type.Optional(Type.String({ description: 'text: the line, or so much of it as is around the match' })),
  encoding: Encoding,
}, { $id: 'FileMatch', additionalProperties: false })
export type FileMatch = Static<typeof FileMatch>

export const FileMatches = Type.Object({
  items: Type.Array(FileMatch),
  isTruncated: Type.Boolean({ description: 'There may be more: limit or time was over' }),
  skipped: Type.Integer({ description: 'Directories and files that could not be read' }),
}, { $id: 'FileMatches', additionalProperties: false })
export type FileMatches = Static<typeof FileMatches>
