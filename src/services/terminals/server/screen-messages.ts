/** What the pty-host and its thread for screens say to each other. */
import type { ErrorFacts } from '../../../lib/error-facts.ts'
import type { Screen } from './pty-protocol.ts'

export interface ScreenPlace {
  /** Terminal id. */
  id: string
  /** Where its files are. */
  dir: string
  cols: number
  rows: number
  /** Screens begin to be followed here. */
  offset: number
}

export type ToScreens =
  | { kind: 'add', place: ScreenPlace }
  /** The files hold output up to `offset`. */
  | { kind: 'advance', id: string, offset: number }
  /** From `offset` on it has this size. */
  | { kind: 'resize', id: string, offset: number, cols: number, rows: number }
  /** Answered by a `screen` with the same request. */
  | { kind: 'screen', request: number, id: string, offset: number }
  /** There is no output behind `offset`: what it shows there is kept as the screen file of that offset. */
  | { kind: 'end', id: string, offset: number }
  | { kind: 'remove', id: string }

export type FromScreens =
  | { kind: 'screen', request: number, screen: Screen }
  | { kind: 'failed', request: number, error: ErrorFacts }

/** Shared words. `current`: the number of the terminal, by the order of `add`, whose output is at work in the thread; -1 for none. */
export const screenControl = Object.freeze({ current: 0 })

export interface ScreenWorkerSettings {
  control: Int32Array
}
