import type { LabelLimit } from '../tasks/task-queue.ts'
import type { TaskSpec } from '../tasks/task-record.ts'

export interface LaneScheme {
  fairLabel: string
  labelLimits: readonly LabelLimit[]
}

/**
 * The name of the lane of a task: all that decides about its turn, spelled out, so that tasks that were pushed under another scheme
 * stay where they are and are counted by what they were pushed with. JSON: [pool, priority, cpuMillis, memoryBytes, value of the fair
 * label or null, limited labels, labels wanted of the host]; labels as sorted pairs.
 */
export function laneOf (spec: Pick<TaskSpec, 'pool' | 'priority' | 'labels' | 'requests' | 'hostLabels'>, { fairLabel, labelLimits }: LaneScheme): string {
  const { pool, priority, labels, requests, hostLabels = {} } = spec
  const limited = new Set(labelLimits.map(({ label }) => label))
  const fair = Object.hasOwn(labels, fairLabel) ? labels[fairLabel] : null
  return JSON.stringify([pool, priority, requests.cpuMillis, requests.memoryBytes, fair, sortedPairs(labels).filter(([label]) => limited.has(label)), sortedPairs(hostLabels)])
}

/** Limits as claim.lua looks them up; of several for the same the first counts. */
export function limitsByLabel (limits: readonly LabelLimit[]): Record<string, { max?: number, values: Record<string, number> }> {
  const byLabel: Record<string, { max?: number, values: Record<string, number> }> = {}
  for (const { label, value, max } of limits) {
    const known = byLabel[label] ??= { values: {} }
    if (value === undefined) known.max ??= max
    else known.values[value] ??= max
  }
  return byLabel
}

function sortedPairs (labels: Readonly<Record<string, string>>): Array<[string, string]> {
  return Object.entries(labels).sort(([a], [b]) => a < b ? -1 : 1)
}
