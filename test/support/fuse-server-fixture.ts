/**
 * A process that serves files on the FUSE descriptor it was given as fd 3, as the image server does:
 *
 *     node fuse-server-fixture.ts SETTINGS.json START-NUMBER
 *
 * What is missing comes from the source file. Its parent may send it orders (`FixtureOrder`) and hears of every fetch.
 */
import { closeSync, existsSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { FuseFileServer, type FuseFile } from '../../src/host/fuse-file-server.ts'
import { mountFuse, raiseReadAhead } from '../../src/host/fuse-mount.ts'
import { connectionGoneExitCode } from '../../src/host/image-keeper.ts'
import { pollUntil } from '../../src/lib/poll.ts'

export interface FixtureFile {
  name: string
  nodeId: string
  sizeBytes: number
  sourcePath: string
  dataPath: string
  granuleBytes: number
  /** Which granules are there from the start. */
  present: 'all' | 'none' | 'even'
}

export interface FixtureSettings {
  target: string
  files: FixtureFile[]
  /** The first start never answers a missing read, and makes this file when it has one. */
  stallMarker?: string
  /** Until this file exists, nothing that is missing comes. */
  gateMarker?: string
  /** While this file exists, what is missing cannot be fetched. */
  outageMarker?: string
  readyPath?: string
}

export type FixtureOrder = { add: FixtureFile } | { remove: string } | { exit: number } | { close: true }

const [settingsPath = '', startNumber = '1'] = process.argv.slice(2)
const settings = JSON.parse(await readFile(settingsPath, 'utf8')) as FixtureSettings
const sources = new Map<string, { source: FixtureFile, file: FuseFile }>()

async function onMissing (name: string, startByte: number, endByte: number): Promise<void> {
  process.send?.({ fetched: { name, startByte, endByte } })
  if (settings.stallMarker !== undefined && startNumber === '1') {
    writeFileSync(settings.stallMarker, '')
    await new Promise(() => {})
  }
  const { gateMarker } = settings
  if (gateMarker !== undefined) await pollUntil(async () => existsSync(gateMarker), 60_000)
  if (settings.outageMarker !== undefined && existsSync(settings.outageMarker)) throw new Error('the registry is down')
  // As a fetch does: not at once.
  await pollUntil(async () => true, 0)
  const { source, file } = sources.get(name) ?? {}
  if (!source || !file) throw new Error('no such file')
  for (let granule = Math.floor(startByte / file.granuleBytes); granule * file.granuleBytes < endByte; granule++) copyGranule(source, file, granule)
}

function copyGranule (source: FixtureFile, file: FuseFile, granule: number): void {
  const from = openSync(source.sourcePath, 'r')
  const to = openSync(source.dataPath, 'r+')
  try {
    const buffer = Buffer.alloc(Math.min(file.granuleBytes, file.sizeBytes - granule * file.granuleBytes))
    readSync(from, buffer, 0, buffer.length, granule * file.granuleBytes)
    writeSync(to, buffer, 0, buffer.length, granule * file.granuleBytes)
    Atomics.or(new Uint8Array(file.present), granule >> 3, 1 << (granule & 7))
  } finally {
    closeSync(from)
    closeSync(to)
  }
}

function add (source: FixtureFile): void {
  const { name, sizeBytes, dataPath, granuleBytes } = source
  const granules = Math.ceil(sizeBytes / granuleBytes)
  const file: FuseFile = { name, nodeId: BigInt(source.nodeId), sizeBytes, dataPath, granuleBytes, present: new SharedArrayBuffer(Math.ceil(granules / 8)) }
  sources.set(name, { source, file })
  if (source.present !== 'none') for (let granule = 0; granule < granules; granule += source.present === 'all' ? 1 : 2) copyGranule(source, file, granule)
  server.add(file)
}

const server = new FuseFileServer({ fd: 3, onMissing, logger: { warn: console.error, error: console.error } })
for (const file of settings.files) add(file)
if (!server.resend()) mountFuse(3, settings.target)
server.start()
await raiseReadAhead(settings.target, 1024)

process.on('message', (order: FixtureOrder) => {
  if ('add' in order) add(order.add)
  else if ('remove' in order) server.remove(order.remove)
  else if ('close' in order) void server.close()
  else process.exit(order.exit)
  process.send?.({ done: true })
})
if (settings.readyPath !== undefined) writeFileSync(settings.readyPath, startNumber)
process.send?.({ ready: true })
const reason = await server.ended
process.exit(reason === 'unmounted' ? connectionGoneExitCode : 0)
