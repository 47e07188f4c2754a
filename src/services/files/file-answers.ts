/** Reads what the program inside prints. Anything inside may have printed it: what is not of the form that the protocol says is refused, and only known fields are taken. */
import type { FileChange, FileEntry, FileMatch, FileType } from '../../schemas/file.ts'
import { brokenAnswer } from './file-problems.ts'
import { fileProblems, type FileHeader, type FileProblem } from './file-protocol.ts'

type Fields = Record<string, unknown>

const fileTypes: ReadonlySet<unknown> = new Set<FileType>(['file', 'directory', 'symlink', 'fifo', 'socket', 'character_device', 'block_device', 'unknown'])
const changeTypes: ReadonlySet<unknown> = new Set<FileChange['type']>(['ready', 'created', 'modified', 'attributes', 'removed', 'renamed', 'overflow'])
const problems: ReadonlySet<unknown> = new Set(fileProblems)
const modePattern = /^0[0-7]{3,4}$/
const timePattern = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/
const maxId = 0xffffffff

/** One line as an object. @throws BerthError unavailable `file_program_failed`. */
export function parseLine (line: Buffer): Fields {
  let value: unknown
  try {
    value = JSON.parse(line.toString('utf8'))
  } catch { /* said below */ }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw brokenAnswer('wrote a line that is no JSON object')
  return value as Fields
}

/** @throws BerthError unavailable `file_program_failed`, as all of these. */
export function parseHeader (fields: Fields): FileHeader {
  if (fields['ok'] === false) {
    const { problem } = fields
    if (!problems.has(problem)) throw brokenAnswer('refused for no known reason')
    return { ok: false, problem: problem as FileProblem, message: optional(fields, 'message', text) ?? '', ...kept(fields, { path: text, sizeBytes: count }) }
  }
  if (fields['ok'] !== true) throw brokenAnswer('answered without saying whether it did it')
  return {
    ok: true,
    ...kept(fields, { entry: value => parseEntry(asObject(value)), hasMore: flag, first: count, lengthBytes: count, isReady: flag, isNew: flag, removed: count }),
  }
}

export function parseEntry (fields: Fields): FileEntry {
  const { type, mode, modifiedAt } = fields
  if (!fileTypes.has(type)) throw brokenAnswer('named a type of file that there is not')
  if (typeof mode !== 'string' || !modePattern.test(mode)) throw brokenAnswer('named permissions that there are not')
  if (typeof modifiedAt !== 'string' || !timePattern.test(modifiedAt)) throw brokenAnswer('named a time that there is not')
  return {
    name: text(fields['name']),
    path: text(fields['path']),
    type: type as FileType,
    sizeBytes: count(fields['sizeBytes']),
    mode,
    uid: id(fields['uid']),
    gid: id(fields['gid']),
    modifiedAt,
    ...kept(fields, { owner: text, group: text, target: text, encoding }),
  }
}

export function parseChange (fields: Fields): FileChange {
  const { type } = fields
  if (!changeTypes.has(type)) throw brokenAnswer('told of a change that there is not')
  return { type: type as FileChange['type'], path: text(fields['path']), ...kept(fields, { from: text, isDirectory: flag, encoding }) }
}

export function parseMatch (fields: Fields): FileMatch {
  const { type } = fields
  if (!fileTypes.has(type)) throw brokenAnswer('named a type of file that there is not')
  return { path: text(fields['path']), type: type as FileType, sizeBytes: count(fields['sizeBytes']), ...kept(fields, { line: count, text, encoding }) }
}

/** The last line of a search. */
export function parseSearchEnd (fields: Fields): { isTruncated: boolean, skipped: number } {
  return { isTruncated: flag(fields['isTruncated']), skipped: count(fields['skipped']) }
}

/** Those of the fields that are there, each read by its reader. */
function kept<T extends Record<string, (value: unknown) => unknown>> (fields: Fields, readers: T): { [Name in keyof T]?: ReturnType<T[Name]> } {
  const found = Object.entries(readers).flatMap(([name, read]) => fields[name] === undefined ? [] : [[name, read(fields[name])]])
  return Object.fromEntries(found) as { [Name in keyof T]?: ReturnType<T[Name]> }
}

function optional<T> (fields: Fields, name: string, read: (value: unknown) => T): T | undefined {
  return fields[name] === undefined ? undefined : read(fields[name])
}

function asObject (value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw brokenAnswer('described a file by what is no object')
  return value as Fields
}

function text (value: unknown): string {
  if (typeof value !== 'string' || !value.isWellFormed() || value.includes('\0')) throw brokenAnswer('wrote a text that is none')
  return value
}

function flag (value: unknown): boolean {
  if (typeof value !== 'boolean') throw brokenAnswer('said neither yes nor no')
  return value
}

function count (value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw brokenAnswer('wrote a number that is none')
  return value as number
}

function id (value: unknown): number {
  if (count(value) > maxId) throw brokenAnswer('named an owner that there cannot be')
  return value as number
}

function encoding (value: unknown): 'base64' {
  if (value !== 'base64') throw brokenAnswer('wrote in an encoding that there is not')
  return value
}
