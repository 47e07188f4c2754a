/** The thread that keeps the screens of all terminals. */
import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { basename } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { BerthError } from '../../../errors.ts'
import { errorFacts } from '../../../lib/error-facts.ts'
import type { Screen } from './pty-protocol.ts'
import { ScreenFollower } from './screen-follower.ts'
import { screenControl, type FromScreens, type ScreenWorkerSettings, type ToScreens } from './screen-messages.ts'

// Programs, and the thread that serves them, come first.
const niceness = 10
setPriority(Number(basename(readlinkSync('/proc/thread-self'))), niceness)

const { control } = workerData as ScreenWorkerSettings
const followers = new Map<string, ScreenFollower>()
let added = 0
let turns: Promise<void> = Promise.resolve()

parentPort?.on('message', (message: ToScreens) => {
  switch (message.kind) {
    case 'add': {
      const number = added++
      followers.set(message.place.id, new ScreenFollower(message.place, act => takeTurn(number, act)))
      break
    }
    case 'advance':
      followers.get(message.id)?.advance(message.offset)
      break
    case 'resize':
      void followers.get(message.id)?.resize(message.offset, message.cols, message.rows)
      break
    case 'screen':
      answer(message.request, message.id, message.offset)
      break
    case 'end':
      void followers.get(message.id)?.keep(message.offset)
      break
    case 'remove':
      followers.get(message.id)?.close()
      followers.delete(message.id)
      break
  }
})

/** One terminal's output at a time, in the order in which they ask; who is at it is written where it can be read when this thread has died of it. */
function takeTurn<T> (number: number, act: () => Promise<T>): Promise<T> {
  const result = turns.then(() => {
    Atomics.store(control, screenControl.current, number)
    return act()
  }).finally(() => Atomics.store(control, screenControl.current, -1))
  turns = result.then(() => {}, () => {})
  return result
}

function answer (request: number, id: string, offset: number): void {
  screenOf(id, offset).then(
    screen => post({ kind: 'screen', request, screen }),
    (error: unknown) => post({ kind: 'failed', request, error: errorFacts(error) })
  )
}

async function screenOf (id: string, offset: number): Promise<Screen> {
  const follower = followers.get(id)
  if (!follower) throw new BerthError('unavailable', 'screen_unavailable', 'the screen of this terminal is not kept')
  return await follower.at(offset)
}

function post (message: FromScreens): void {
  parentPort?.postMessage(message)
}
