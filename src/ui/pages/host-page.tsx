/** This machine, its daemon and its queue. */
import type { Host } from '../../schemas/host.ts'
import type { QueueStatus } from '../../schemas/task.ts'
import { useConsole } from '../parts/console-context.ts'
import { CopyText } from '../parts/copy-text.tsx'
import { Facts } from '../parts/facts.tsx'
import { Loading, Problem } from '../parts/states.tsx'
import { StatusBadge } from '../parts/status-badge.tsx'
import { Age } from '../parts/time-text.tsx'
import { Meter } from '../parts/usage-cells.tsx'
import { useResource } from '../parts/use-resource.ts'
import { formatBytes, formatCores, formatDuration, formatShare, formatWords } from '../text/format.ts'

const everyMs = 5000

export function HostPage () {
  const { client } = useConsole()
  const read = useResource('host', signal => client.get<Host>('/v1/host', undefined, signal), everyMs)
  const queue = useResource('queue', signal => client.get<QueueStatus>('/v1/queue', undefined, signal), everyMs)
  const host = read.value.value
  return (
    <>
      <header class='page-head'><h1>Host</h1><div class='tools'><a class='button plain' href='docs' target='_blank' rel='noopener'>API documentation</a></div></header>
      {read.error.value !== undefined && <Problem text={read.error.value} onRetry={read.reload} />}
      {!host && read.error.value === undefined && <Loading what='the host' />}
      {host && (
        <div class='cards'>
          <Facts title='Daemon' facts={[
            ['Host', host.hostname],
            ['Status', <StatusBadge status={host.status} />],
            ['Berth', host.version],
            ['Started', <Age at={host.startedAt} />],
            ['Process', String(host.pid)],
            ['Node.js', host.node],
            ['Kernel', host.kernel],
            ['Control groups', `version ${host.cgroupVersion}`],
            ['Id', <CopyText text={host.id} what='id' />],
          ]} />
          <Facts title='Capacity' facts={[
            ['Load', host.usage.loadAverage.map(load => load.toFixed(2)).join('  ')],
            ['CPU asked for', share(host.usage.requestedCpuMillis, host.capacity.cpuMillis, formatCores)],
            ['Memory asked for', share(host.usage.requestedMemoryBytes, host.capacity.memoryBytes, formatBytes)],
            ['Memory in use', share(host.usage.memoryBytes, host.capacity.memoryBytes, formatBytes)],
            ['Disk in use', share(host.usage.diskBytes, host.capacity.diskBytes, formatBytes)],
          ]} />
          <Facts title='Sandboxes' facts={Object.entries(host.usage.sandboxes).filter(([, count]) => count > 0).map(([status, count]) => [status, String(count)] as const)} />
          <Facts title='Runtimes' facts={host.runtimes.map(({ name, version, platform, isDefault }) => [name, `${version}${platform === undefined ? '' : `, ${platform}`}${isDefault ? ', default' : ''}`] as const)} />
          {queue.value.value && <QueueFacts queue={queue.value.value} />}
        </div>
      )}
    </>
  )
}

function QueueFacts ({ queue }: { queue: QueueStatus }) {
  return (
    <>
      <Facts title='Queue' facts={[
        ['Free CPU', share(queue.free.cpuMillis, queue.capacity.cpuMillis, formatCores)],
        ['Free memory', share(queue.free.memoryBytes, queue.capacity.memoryBytes, formatBytes)],
        ['Held back', queue.heldBack && formatWords(queue.heldBack)],
      ]} />
      {queue.pools.map(pool => (
        <Facts
          key={pool.pool} title={`Pool ${pool.pool}`} facts={[
            ['Served here', pool.isServed ? 'yes' : 'no'],
            ['Waiting', String(pool.pending)],
            ['Delayed', String(pool.delayed)],
            ['Being set up', String(pool.scheduled)],
            ['Running', String(pool.running)],
            ['Failed for good', String(pool.deadLetters)],
            ['Longest wait', pool.oldestPendingMs !== undefined && formatDuration(pool.oldestPendingMs)],
          ]}
        />
      ))}
    </>
  )
}

function share (used: number, all: number, format: (figure: number) => string) {
  return <Meter text={`${format(used)} of ${format(all)} (${formatShare(all === 0 ? 0 : used / all)})`} share={all === 0 ? 0 : used / all} />
}
