/** The middle value; the mean of the two middle ones when their number is even. NaN for nothing. */
export function median (values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** A quantile by linear interpolation between neighbours. */
export function quantile (values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)] ?? NaN
  const above = sorted[Math.ceil(place)] ?? NaN
  return below + (above - below) * (place - Math.floor(place))
}

/** Milliseconds by a clock that all processes of a machine share, and that goes on evenly. */
export function monotonicMs (): number {
  return Number(process.hrtime.bigint()) / 1e6
}
