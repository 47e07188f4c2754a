/** An IPv4 address that is lent to this host. */
export interface AddressLease {
  ipv4: string
  /** The router of its network as the source knows it. Sandboxes do not use it: theirs is this host. Empty: not told. */
  gateway4: string
  /** Of the network that the source gives addresses from; 0: not told. */
  prefixLength: number
}

/** Where addresses of sandboxes come from when this host does not give them itself. It may be away at any time. */
export interface AddressSource {
  /**
   * An address that nobody else has until it is released. The same lease gets the same address, or a fresh one.
   *
   * @throws BerthError unavailable `addresses_unavailable`: for the time being there is none for any lease; exhausted `addresses_exhausted`.
   */
  allocate (leaseId: string): Promise<AddressLease>
  /** Idempotent; a lease that is not there is fine. @throws BerthError unavailable `addresses_unavailable` */
  release (leaseId: string): Promise<void>
}
