/** Makes a sandbox. */
import { useMemo } from 'preact/hooks'
import type { Sandbox } from '../../schemas/sandbox.ts'
import { addNotice } from '../stores/notices.ts'
import { useConsole } from './console-context.ts'
import { FormDialog } from './form-dialog.tsx'
import { RunFields } from './run-fields.tsx'
import { makeRunForm, readRunForm } from './run-form.ts'

export function SandboxDialog ({ onClose, onCreated }: { onClose: () => void, onCreated: (sandbox: Sandbox) => void }) {
  const { client, sandboxes } = useConsole()
  const form = useMemo(makeRunForm, [])
  const create = async () => {
    const sandbox = await client.post<Sandbox>('/v1/sandboxes', readRunForm(form))
    sandboxes.put(sandbox)
    addNotice('done', 'Sandbox created')
    onCreated(sandbox)
    return true
  }
  return (
    <FormDialog title='Create sandbox' action='Create' doing='Creating…' onClose={onClose} onSubmit={create} isWide>
      <RunFields form={form} commandHint='Left empty, it idles, ready for terminals.' />
    </FormDialog>
  )
}
