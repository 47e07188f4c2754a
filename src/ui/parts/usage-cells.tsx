/** What a sandbox uses, of what it may: figures, and a bar under them. */
import { useComputed } from '@preact/signals'
import type { Resources } from '../../schemas/sandbox.ts'
import { formatBytes, formatCores, formatShare } from '../text/format.ts'
import { useConsole } from './console-context.ts'

export function UsageCells ({ id, resources, isActive }: { id: string, resources: Resources, isActive: boolean }) {
  const { usage } = useConsole()
  // Compared by its text, so that a row whose figures stay is not drawn again.
  const current = useComputed(() => {
    const found = usage.value.current.get(id)
    return found === undefined ? '' : `${found.cpuMillis === undefined ? '' : Math.round(found.cpuMillis)}/${found.memoryBytes}`
  })
  const [cpu = '', memory = ''] = current.value.split('/')
  const limit = `of ${formatCores(resources.cpuMillis)}`
  return (
    <>
      <td class='wide-only number' title={`${cpu === '' ? 'At most' : formatShare(Number(cpu) / resources.cpuMillis)} ${limit}`}>
        {isActive && cpu !== '' ? <Meter text={formatShare(Number(cpu) / 1000)} share={Number(cpu) / resources.cpuMillis} /> : <span class='muted'>–</span>}
      </td>
      <td class='wide-only number' title={`At most ${formatBytes(resources.memoryBytes)}`}>
        {isActive && memory !== '' ? <Meter text={formatBytes(Number(memory))} share={Number(memory) / resources.memoryBytes} /> : <span class='muted'>–</span>}
      </td>
    </>
  )
}

export function Meter ({ text, share }: { text: string, share: number }) {
  const percent = Math.min(100, Math.max(0, share * 100))
  return <span class='meter'>{text}<svg viewBox='0 0 100 3' preserveAspectRatio='none' aria-hidden='true'><rect class={percent > 90 ? 'full' : 'used'} width={percent} height='3' /></svg></span>
}
