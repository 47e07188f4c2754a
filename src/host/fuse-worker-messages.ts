/** What a FuseFileServer and its thread say to each other. */
import type { FuseFile } from './fuse-directory.ts'

export interface WorkerSettings {
  fd: number
  /** Readable when there are messages or it is time to end. */
  wakeFd: number
  /** Shared words, at the places that `controlWords` names. */
  control: Int32Array
  files: FuseFile[]
}

/** `isWoken`: the wake-up has been written and not been taken. `isClosing`: the thread is to end. */
export const controlWords = Object.freeze({ isWoken: 0, isClosing: 1 })

export type ToWorker =
  | { kind: 'add', file: FuseFile }
  | { kind: 'remove', name: string }
  /** The range of a `missing` has come, or will not come. */
  | { kind: 'settled', unique: bigint, isThere: boolean }

export type FromWorker =
  | { kind: 'missing', unique: bigint, name: string, startByte: number, endByte: number }
  | { kind: 'log', message: string, fields: Record<string, unknown> }
  | { kind: 'ended', reason: FuseEnd }

/** Why a server has ended: it was closed, or its mount is gone for good. */
export type FuseEnd = 'closed' | 'unmounted'
