/** Everything there is to know about a sandbox. */
import type { NetworkStatus } from '../../schemas/network.ts'
import type { Sandbox } from '../../schemas/sandbox.ts'
import type { Usage } from '../../schemas/usage.ts'
import { formatCommandLine } from '../text/command-line.ts'
import { formatBytes, formatCores, formatDuration, formatEnd, formatTime, shortDigest } from '../text/format.ts'
import { useConsole } from './console-context.ts'
import { CopyText } from './copy-text.tsx'
import { Facts, type Fact } from './facts.tsx'
import { Labels } from './labels.tsx'
import { Countdown } from './time-text.tsx'
import { useResource } from './use-resource.ts'

const usageEveryMs = 3000

export function SandboxDetails ({ sandbox }: { sandbox: Sandbox }) {
  const { client } = useConsole()
  const isActive = ['running', 'paused'].includes(sandbox.status)
  const usage = useResource(`${sandbox.id} ${sandbox.status}`, async signal => isActive ? await client.get<Usage>(`/v1/sandboxes/${sandbox.id}/usage`, undefined, signal) : undefined, usageEveryMs)
  const network = useResource(`${sandbox.id} ${sandbox.status}`, async signal => isActive ? await client.get<NetworkStatus>(`/v1/sandboxes/${sandbox.id}/network`, undefined, signal) : undefined, usageEveryMs)
  const used = usage.value.value
  const traffic = network.value.value?.traffic
  const { resources, end } = sandbox
  const time = (at: string | undefined) => at === undefined ? undefined : formatTime(at)
  return (
    <div class='cards'>
      <Facts title='Sandbox' facts={[
        ['Image', sandbox.image.reference],
        ['Digest', sandbox.image.digest && <CopyText text={sandbox.image.digest} shown={shortDigest(sandbox.image.digest)} what='digest' />],
        ['Command', sandbox.entrypoint ? <code>{formatCommandLine(sandbox.entrypoint)}</code> : 'none: it idles, ready for terminals and execs'],
        ['Working directory', <code>{sandbox.workingDir}</code>],
        ['User', sandbox.user],
        ['Host name', sandbox.hostname],
        ['Runtime', sandbox.runtime],
        ['Task', sandbox.taskId && <a class='mono' href={`#/tasks/${sandbox.taskId}`}>{sandbox.taskId}</a>],
        ['Labels', Object.keys(sandbox.labels).length > 0 && <Labels labels={sandbox.labels} />],
      ]} />
      <Facts title='Resources' facts={[
        ['Processor time', used && formatDuration(used.cpuTimeMs)],
        ['Memory', used && `${formatBytes(used.memoryBytes)} of ${formatBytes(resources.memoryBytes)}`],
        ['Highest memory', used ? formatBytes(used.peakMemoryBytes) : end?.peakMemoryBytes !== undefined && formatBytes(end.peakMemoryBytes)],
        ['Processes of the host', used && String(used.pids)],
        ['CPU limit', formatCores(resources.cpuMillis)],
        ['Memory limit', formatBytes(resources.memoryBytes)],
        ['Process limit', String(resources.pids)],
        ['Disk limit', resources.diskBytes === undefined ? 'none' : formatBytes(resources.diskBytes)],
      ]} />
      <Facts title='Life' facts={[
        ['Created', time(sandbox.createdAt)],
        ['Started', time(sandbox.startedAt)],
        ['Time limit', sandbox.deadlineAt && isActive && <Countdown at={sandbox.deadlineAt} />],
        ['Idle limit', sandbox.idleDeadlineAt && isActive && <Countdown at={sandbox.idleDeadlineAt} />],
        ['Ended', time(end?.at)],
        ['Why', end && formatEnd(end)],
        ['Failed step', end?.step],
        ['Message', end?.message],
        ['Deleted', time(sandbox.deletedAt)],
        ['Set-up', sandbox.timings.length > 0 && sandbox.timings.map(({ step, durationMs }) => `${step} ${Math.round(durationMs)} ms`).join(', ')],
        ['Left behind', sandbox.leaks.length > 0 && sandbox.leaks.map(({ step, message }) => `${step}: ${message}`).join('; ')],
      ]} />
      <Facts title='Network' facts={[
        ['May reach', egressText(sandbox.network.egress)],
        ['Address', sandbox.network.ipv4],
        ['IPv6', sandbox.network.ipv6],
        ['Published', sandbox.network.publish.length > 0 && sandbox.network.publish.map(({ port, hostPort, protocol }) => `${hostPort} → ${port}/${protocol}`).join(', ')],
        ['Received', traffic && formatBytes(traffic.receivedBytes)],
        ['Sent', traffic && formatBytes(traffic.sentBytes)],
        ['Host\'s API', sandbox.network.gateway ? 'reachable as gateway.internal' : 'not reachable'],
      ]} />
      {Object.keys(sandbox.env).length > 0 && <Facts title='Environment' facts={Object.entries(sandbox.env).map(([name, value]): Fact => [name, <code>{value}</code>])} />}
    </div>
  )
}

function egressText (egress: Sandbox['network']['egress']): string {
  if (egress === 'none') return 'nothing'
  if (egress === 'internet') return 'every public address'
  return typeof egress === 'string' ? egress : `${egress.allow.join(', ') || 'nothing'}${egress.deny?.length ? `, but not ${egress.deny.join(', ')}` : ''}`
}
