/** Names and addresses of a host's sandbox networks: all follow from the daemon's tag, its block of addresses and the number of a slot. */

/** A prepared network namespace with its link to the host. */
export interface NetworkSlot {
  /** 2 … plan.slotCount - 1 */
  number: number
  /** `berth-<tag>-<number as four hex digits>` */
  netns: string
  /** `/run/netns/<netns>` */
  netnsPath: string
  /** The host's end: `bv<tag><number as four hex digits>`, 12 characters; inside it is eth0. */
  device: string
  mac: string
  ipv4: string
  ipv6: string
}

export interface NetworkPlan {
  /** Six hex digits that follow from the host id: several daemons share a host. */
  tag: string
  /** Link group of all its veths. */
  group: number
  /** `berth_<tag>` */
  table: string
  /** The whole pools that daemons of this host take their blocks from; no sandbox reaches into them. */
  pool4: string
  pool6: string
  /** This daemon's block. */
  block4: string
  block6: string
  /** The host's own addresses on lo, which sandboxes know as their router, name server and gateway.internal. */
  gateway4: string
  gateway6: string
  /** Of the host's end of every veth. */
  gatewayMac: string
  /** NFLOG group of the packet filter's log. */
  nflogGroup: number
  slotCount: number
  slot: (number: number) => NetworkSlot
}
