/** Bodies of requests and answers of S2's REST interface, outside sessions: JSON (raw and base64) and protobuf. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import { decodeAppend, encodeAck, encodeReadBatch, type WireAck, type WireAppend, type WirePosition } from './s2-stream-proto.ts'
import { readFrom, tailOf, type StoredStream } from './s2-stream-store.ts'

export type Request = IncomingMessage | Http2ServerRequest
export type Response = ServerResponse | Http2ServerResponse

interface JsonAppend {
  records: Array<{ timestamp?: number, headers?: Array<[string, string]>, body?: string }>
  match_seq_num?: number
  fencing_token?: string
}

export async function readBody (request: Request): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
  return Buffer.concat(chunks)
}

export function answer (response: Response, status: number, body: unknown, headers: Record<string, string> = {}): void {
  (response as ServerResponse).writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

function answerBytes (response: Response, body: Buffer): void {
  (response as ServerResponse).writeHead(200, { 'content-type': 'application/protobuf' }).end(body)
}

export function answerRead (request: Request, response: Response, stream: StoredStream, query: URLSearchParams): void {
  const records = readFrom(stream, query)
  if (request.headers.accept === 'application/protobuf') return answerBytes(response, encodeReadBatch(records, tailOf(stream)))
  const encoding = request.headers['s2-format'] === 'base64' ? 'base64' : 'utf8'
  const text = (bytes: Buffer): string => bytes.toString(encoding)
  const shown = records.map(record => ({
    ...toJsonPosition(record),
    headers: record.headers.map(({ name, value }) => [text(name), text(value)]),
    body: text(record.body),
  }))
  answer(response, 200, { records: shown, tail: toJsonPosition(tailOf(stream)) })
}

export async function readAppend (request: Request): Promise<WireAppend> {
  const body = await readBody(request)
  if (request.headers['content-type'] === 'application/protobuf') return decodeAppend(body)
  const input = JSON.parse(body.toString()) as JsonAppend
  const bytes = (text = ''): Buffer => Buffer.from(text, request.headers['s2-format'] === 'base64' ? 'base64' : 'utf8')
  const records = input.records.map(({ timestamp, headers = [], body }) =>
    ({ timestamp, headers: headers.map(([name, value]) => ({ name: bytes(name), value: bytes(value) })), body: bytes(body) }))
  return { records, matchSeqNum: input.match_seq_num, fencingToken: input.fencing_token }
}

export function answerAppend (request: Request, response: Response, ack: WireAck): void {
  if (request.headers['content-type'] === 'application/protobuf') answerBytes(response, encodeAck(ack))
  else answer(response, 200, { start: toJsonPosition(ack.start), end: toJsonPosition(ack.end), tail: toJsonPosition(ack.tail) })
}

export function toJsonPosition ({ seqNum, timestamp }: WirePosition): { seq_num: number, timestamp: number } {
  return { seq_num: seqNum, timestamp }
}
