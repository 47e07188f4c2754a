/** What users of Redis are given. */
import type { Cluster, Redis } from 'ioredis'

export interface RedisSettings {
  /** redis[s]://[USER@]HOST:PORT[/DB], unix:///PATH, redis[s]+cluster://HOST:PORT,HOST:PORT, redis[s]+sentinel://HOST:PORT,HOST:PORT/MASTER[/DB] */
  url: string
  /** Begins the name of every key. */
  prefix: string
  /** Holds the password; empty: none but what the URL has. */
  passwordFile: string
  /** PEM: authorities in the place of the system's, and a certificate of our own with its key; empty: none. */
  caFile: string
  certFile: string
  keyFile: string
}

export type RedisClient = Redis | Cluster

/**
 * One Redis, whichever way it is run. Calls wait for a connection that is coming back, within the time for a call; then they fail with
 * BerthError unavailable `redis_unavailable`, and so do those that a server refuses while it loads or has just become a replica.
 * Scripts that were cut off may have been carried out.
 */
export interface RedisConnection {
  readonly prefix: string
  readonly isReady: boolean
  /** For ordinary commands. */
  readonly client: RedisClient
  /** Runs commands: what fails for want of a server becomes a BerthError. */
  run: <T>(work: (client: RedisClient) => Promise<T>) => Promise<T>
  /**
   * A connection of its own, for commands that wait (at most 10 s: one that is silent for longer is given up) or for subscriptions,
   * which are made again on each connection. It connects again by itself, and ends with this, or before by `endClient`.
   */
  another: (purpose: 'blocking' | 'subscriber') => RedisClient
  /** Calls back when it is connected again after a time away; answers how to stop. */
  onReady: (listener: () => void) => () => void
  close: () => Promise<void>
}
