/** Writes tars byte by byte, also such as no tool would write. */

export interface HeaderFields {
  name?: string | Buffer
  type?: string
  mode?: number | string
  uid?: number | string
  gid?: number | string
  /** The size that the header says; the length of the data where it is left out. */
  size?: number | string
  mtime?: number | string
  linkName?: string
  magic?: string
  prefix?: string
  major?: number
  minor?: number
  /** Bytes put over the header before its checksum is made, by offset. */
  raw?: Readonly<Record<number, string | Buffer>>
  /** In the place of the right one. */
  checksum?: number
}

const blockBytes = 512

/** One header and its data, padded. */
export function entry (fields: HeaderFields, data: string | Buffer = ''): Buffer {
  const content = Buffer.from(data)
  const header = Buffer.alloc(blockBytes)
  const put = (offset: number, value: string | Buffer) => (typeof value === 'string' ? Buffer.from(value, 'latin1') : value).copy(header, offset)
  const octal = (value: number | string, length: number) => typeof value === 'string' ? value : `${value.toString(8).padStart(length - 1, '0')}\0`
  put(0, fields.name ?? 'file')
  put(100, octal(fields.mode ?? 0o644, 8))
  put(108, octal(fields.uid ?? 0, 8))
  put(116, octal(fields.gid ?? 0, 8))
  put(124, octal(fields.size ?? content.length, 12))
  put(136, octal(fields.mtime ?? 1_700_000_000, 12))
  put(156, fields.type ?? '0')
  put(157, fields.linkName ?? '')
  put(257, fields.magic ?? 'ustar\u000000')
  put(329, octal(fields.major ?? 0, 8))
  put(337, octal(fields.minor ?? 0, 8))
  put(345, fields.prefix ?? '')
  for (const [offset, value] of Object.entries(fields.raw ?? {})) put(Number(offset), value)
  header.fill(' ', 148, 156)
  const sum = fields.checksum ?? header.reduce((total, byte) => total + byte, 0)
  put(148, `${sum.toString(8).padStart(6, '0')}\0 `)
  return Buffer.concat([header, padded(content)])
}

export function directory (name: string, fields: HeaderFields = {}): Buffer {
  return entry({ name, type: '5', mode: 0o755, ...fields })
}

/** A pax header for the next entry, or for all with type `g`. Values are bytes. */
export function pax (records: ReadonlyArray<readonly [key: string, value: string | Buffer]>, type: 'x' | 'g' = 'x'): Buffer {
  return entry({ name: 'PaxHeaders/x', type }, Buffer.concat(records.map(([key, value]) => paxRecord(key, value))))
}

function paxRecord (key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value), Buffer.from('\n')])
  let length = rest.length + 1
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return Buffer.concat([Buffer.from(String(length)), rest])
}

/** GNU's header for a name (`L`) or a link target (`K`) of the next entry. */
export function gnuLong (type: 'L' | 'K', text: string): Buffer {
  return entry({ name: '././@LongLink', type, magic: 'ustar  \0' }, `${text}\0`)
}

/** A whole archive, with its end mark. */
export function tar (...entries: readonly Buffer[]): Buffer {
  return Buffer.concat([...entries, Buffer.alloc(2 * blockBytes)])
}

function padded (content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((blockBytes - content.length % blockBytes) % blockBytes)])
}
