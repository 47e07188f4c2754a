/** Fields of forms, each with its name and, where it needs one, a hint. */
import type { Signal } from '@preact/signals'
import { useId } from 'preact/hooks'

interface FieldProps {
  label: string
  value: Signal<string>
  hint?: string
  placeholder?: string
}

export function TextField ({ label, value, hint, placeholder, isSecret = false, isRequired = false, hasFocus = false, list }: FieldProps & {
  isSecret?: boolean, isRequired?: boolean, hasFocus?: boolean, list?: readonly string[]
}) {
  const id = useId()
  const shared = {
    id,
    value: value.value,
    onInput: (event: { currentTarget: HTMLInputElement }) => { value.value = event.currentTarget.value },
    placeholder,
    required: isRequired,
    autoFocus: hasFocus,
    autoComplete: 'off',
    autoCapitalize: 'off',
    spellcheck: false,
    'aria-describedby': hint && `${id}-hint`,
  } as const
  return (
    <div class='field'>
      <label htmlFor={id}>{label}</label>
      {isSecret ? <input type='password' {...shared} /> : <input type='text' list={list && `${id}-list`} {...shared} />}
      {list && <datalist id={`${id}-list`}>{list.map(item => <option key={item} value={item} />)}</datalist>}
      {hint && <p class='hint' id={`${id}-hint`}>{hint}</p>}
    </div>
  )
}

export function AreaField ({ label, value, hint, placeholder, rows = 3 }: FieldProps & { rows?: number }) {
  const id = useId()
  return (
    <div class='field'>
      <label htmlFor={id}>{label}</label>
      <textarea
        id={id} rows={rows} value={value.value} onInput={event => { value.value = event.currentTarget.value }} placeholder={placeholder}
        spellcheck={false} autoCapitalize='off' aria-describedby={hint && `${id}-hint`}
      />
      {hint && <p class='hint' id={`${id}-hint`}>{hint}</p>}
    </div>
  )
}

export function SelectField ({ label, value, hint, options }: FieldProps & { options: readonly (readonly [value: string, text: string])[] }) {
  const id = useId()
  return (
    <div class='field'>
      <label htmlFor={id}>{label}</label>
      <select id={id} value={value.value} onChange={event => { value.value = event.currentTarget.value }} aria-describedby={hint && `${id}-hint`}>
        {options.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
      </select>
      {hint && <p class='hint' id={`${id}-hint`}>{hint}</p>}
    </div>
  )
}

export function CheckField ({ label, value }: { label: string, value: Signal<boolean> }) {
  return (
    <label class='check'>
      <input type='checkbox' checked={value.value} onChange={event => { value.value = event.currentTarget.checked }} />
      {label}
    </label>
  )
}
