/** Where a Redis is, read from a URL; `RedisSettings.url` in redis-types.ts shows the forms. */

export interface RedisNode {
  host: string
  port: number
}

interface Access {
  /** Of an access control list; the default user without it. */
  username?: string
  /** In the place of one from a file. */
  password?: string
  db: number
}

export type RedisAddress = Access & (
  | { kind: 'single', isTls: boolean, node: RedisNode }
  | { kind: 'unix', isTls: false, path: string }
  | { kind: 'cluster', isTls: boolean, nodes: RedisNode[] }
  | { kind: 'sentinel', isTls: boolean, nodes: RedisNode[], master: string })

const forms = 'give redis://HOST:PORT, rediss://HOST:PORT (TLS), unix:///PATH, redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/MASTER'
const shape = /^(?<scheme>[a-z+]+):\/\/(?:(?<access>[^@/]*)@)?(?<rest>.*)$/s
const defaultPorts = { single: 6379, cluster: 6379, sentinel: 26_379 }
const mostDb = 65_535

/** @throws Error with what is wrong and what to give, and never with the password. */
export function parseRedisUrl (text: string): RedisAddress {
  const { scheme = '', access, rest = '' } = shape.exec(text.trim())?.groups ?? {}
  const who = readAccess(access)
  const isTls = scheme.startsWith('rediss')
  switch (scheme) {
    case 'redis':
    case 'rediss': return { kind: 'single', isTls, ...readSingle(rest), ...who }
    case 'unix': return { kind: 'unix', isTls: false, path: readPath(rest), db: 0, ...who }
    case 'redis+cluster':
    case 'rediss+cluster': return { kind: 'cluster', isTls, nodes: readCluster(rest), db: 0, ...who }
    case 'redis+sentinel':
    case 'rediss+sentinel': return { kind: 'sentinel', isTls, ...readSentinel(rest), ...who }
    default: throw new Error(`that is no URL of a Redis; ${forms}`)
  }
}

/** The address for people: without user and password. */
export function describeRedis (address: RedisAddress): string {
  const scheme = address.isTls ? 'rediss' : 'redis'
  const db = address.db === 0 ? '' : `/${address.db}`
  switch (address.kind) {
    case 'single': return `${scheme}://${describeNode(address.node)}${db}`
    case 'unix': return `unix://${address.path}`
    case 'cluster': return `${scheme}+cluster://${address.nodes.map(describeNode).join(',')}`
    case 'sentinel': return `${scheme}+sentinel://${address.nodes.map(describeNode).join(',')}/${address.master}${db}`
  }
}

function describeNode ({ host, port }: RedisNode): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function readAccess (text: string | undefined): Pick<Access, 'username' | 'password'> {
  if (text === undefined || text === '') return {}
  const at = text.indexOf(':')
  const [username, password] = at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)]
  return { ...username && { username: decode(username) }, ...password && { password: decode(password) } }
}

function decode (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error('the user or the password has a % that begins no escape; write it as %25')
  }
}

function readSingle (rest: string): { node: RedisNode, db: number } {
  const [hosts = '', db, ...more] = rest.split('/')
  const [node, ...others] = readNodes(hosts, defaultPorts.single)
  if (more.length > 0) throw new Error(`behind the host there is the number of a database at most; ${forms}`)
  if (others.length > 0) throw new Error('there are several hosts; say what they are: redis+cluster://… or redis+sentinel://…/MASTER')
  return { node: node!, db: readDb(db) }
}

function readCluster (rest: string): RedisNode[] {
  const [hosts = '', db = '', ...more] = rest.split('/')
  if ((db !== '' && db !== '0') || more.length > 0) throw new Error('a cluster has database 0 alone; leave out what is behind the hosts')
  return readNodes(hosts, defaultPorts.cluster)
}

function readSentinel (rest: string): { nodes: RedisNode[], master: string, db: number } {
  const [hosts = '', master = '', db, ...more] = rest.split('/')
  if (master === '' || more.length > 0) throw new Error('behind the sentinels there must be the name of the master: redis+sentinel://HOST:PORT,HOST:PORT/MASTER')
  return { nodes: readNodes(hosts, defaultPorts.sentinel), master: decode(master), db: readDb(db) }
}

function readPath (rest: string): string {
  if (!rest.startsWith('/') || rest === '/') throw new Error('unix:// wants an absolute path: unix:///run/redis/redis.sock')
  return decode(rest)
}

function readDb (text = ''): number {
  if (text === '') return 0
  const db = Number(text)
  if (!/^\d{1,5}$/.test(text) || db > mostDb) throw new Error(`${JSON.stringify(text)} is no number of a database: 0 to ${mostDb}`)
  return db
}

function readNodes (text: string, defaultPort: number): RedisNode[] {
  return text.split(',').map(part => {
    const { six, four, port } = /^(?:\[(?<six>[0-9A-Fa-f:.]+)\]|(?<four>[A-Za-z0-9._-]+))(?::(?<port>\d{1,5}))?$/.exec(part.trim())?.groups ?? {}
    const host = six ?? four
    const number = port === undefined ? defaultPort : Number(port)
    if (host === undefined || number < 1 || number > 65_535) throw new Error(`${JSON.stringify(part)} is no HOST:PORT; ${forms}`)
    return { host, port: number }
  })
}
