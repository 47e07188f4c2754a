/** A terminal without a process, and clients that attach to it over real connections. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import type { WebSocket } from 'ws'
import type { AttachEvent } from '../../../src/schemas/terminal.ts'
import { buildSocketRig, type Ask } from '../../support/socket-rig.ts'
import type { FakeAttachment } from '../routes/fake-terminals.ts'

export interface Client {
  socket: WebSocket
  /** What the terminal sees of it. */
  attachment: FakeAttachment
  /** Events as they are, output as bytes. */
  frames: Array<AttachEvent | Buffer>
  /** Resolves when there are so many frames of its kind. */
  hasSeen: (count: number) => Promise<void>
  closed: Promise<{ code: number, reason: string }>
}

export async function buildAttachRig (t: TestContext, options: { followerStallMs?: number } = {}) {
  const rig = await buildSocketRig(t, options)
  const terminal = await rig.terminals.create(rig.sandbox.id, { cols: 80, rows: 24 }, {})
  const path = (query = '') => `/v1/sandboxes/${rig.sandbox.id}/terminals/${terminal.id}/attach${query}`

  async function attach (query = '', asked: Ask = {}): Promise<Client> {
    const socket = rig.open(query.startsWith('/') ? query : path(query), asked)
    const frames: Client['frames'] = []
    socket.on('message', (data, isBinary) => frames.push(isBinary ? data as Buffer : JSON.parse(String(data))))
    const closed = once(socket, 'close').then(([code, reason]) => ({ code, reason: String(reason) }))
    const before = rig.terminals.attachments.length
    await once(socket, 'open')
    const attachment = rig.terminals.attachments[before]
    assert.ok(attachment, 'the terminal was not attached to')
    await attachment.begun
    const hasSeen = async (count: number) => {
      while (frames.length < count) await once(socket, 'message')
    }
    return { socket, attachment, frames, hasSeen, closed }
  }
  const codeOf = async (query: string, asked: Ask = {}) => {
    const { status, body } = await rig.refused(query.startsWith('/') ? query : path(query), asked)
    return `${status} ${body.code}`
  }
  const ticketFor = async (body: object, headers = rig.bearer(rig.admin)) => {
    const payload = { scope: 'terminal', sandboxId: rig.sandbox.id, terminalId: terminal.id, ...body }
    const answer = await rig.app.inject({ method: 'POST', url: '/v1/tickets', headers, payload })
    return { status: answer.statusCode, ...answer.json() as { ticket: string, path: string, expiresAt: string, code: string } }
  }
  return { ...rig, terminal, path, attach, codeOf, ticketFor }
}

/** Bytes of output, in their order. */
export function outputOf (frames: Client['frames']): Buffer {
  return Buffer.concat(frames.filter(frame => Buffer.isBuffer(frame)))
}

export async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 5))
}
