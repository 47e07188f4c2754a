/** The fields that the forms for sandboxes and for tasks have in common. */
import { useEffect } from 'preact/hooks'
import { useSignal } from '@preact/signals'
import type { Image } from '../../schemas/image.ts'
import { useConsole } from './console-context.ts'
import { AreaField, SelectField, TextField } from './field.tsx'
import type { RunForm } from './run-form.ts'

const egressChoices = [
  ['default', 'As the host has it'], ['none', 'Nothing'], ['internet', 'Every public address'], ['rules', 'Only what is listed'],
] as const

export function RunFields ({ form, commandHint }: { form: RunForm, commandHint: string }) {
  const { client } = useConsole()
  const names = useSignal<string[]>(['berth/base'])
  useEffect(() => {
    client.list<Image>('/v1/images', {}, 200).then(images => { names.value = [...new Set(['berth/base', ...images.flatMap(image => image.references)])] }, () => {})
  }, [client])
  return (
    <>
      <TextField label='Image' value={form.image} isRequired hasFocus list={names.value} />
      <TextField label='Command' value={form.command} placeholder={'sh -c \'echo hello\''} hint={commandHint} />
      <div class='field-row'>
        <TextField label='CPU' value={form.cpu} placeholder='2 cores' />
        <TextField label='Memory' value={form.memory} placeholder='2g' />
        <TextField label='Disk' value={form.disk} placeholder='no limit' />
        <TextField label='Time limit' value={form.timeout} placeholder='none, or 10m' />
      </div>
      <div class='field-row halves'>
        <AreaField label='Environment' value={form.env} placeholder='NAME=value' hint='One a line' />
        <AreaField label='Labels' value={form.labels} placeholder='team=blue' hint='One a line' />
      </div>
      <SelectField label='Network: what it may reach' value={form.egress} options={egressChoices} />
      {form.egress.value === 'rules' && <AreaField label='Allowed' value={form.allow} rows={2} placeholder='api.example.com *.npmjs.org 10.1.2.3:5432' hint='Domains, addresses and networks, with :port where only one is meant' />}
    </>
  )
}
