/** Buttons, with a picture, a word, or both. */
import type { ComponentChildren } from 'preact'
import { Icon, type IconName } from './icon.tsx'

export interface ButtonProps {
  onClick?: () => void
  kind?: 'plain' | 'primary' | 'danger' | 'quiet'
  icon?: IconName
  /** What it does, there where there is only a picture; shown as a hint too. */
  label?: string
  disabled?: boolean
  isBusy?: boolean
  isPressed?: boolean
  type?: 'button' | 'submit'
  children?: ComponentChildren
}

export function Button ({ onClick, kind = 'plain', icon, label, disabled, isBusy, isPressed, type = 'button', children }: ButtonProps) {
  return (
    <button
      type={type} class={`button ${kind} ${children === undefined ? 'bare' : ''}`} onClick={onClick} title={label} aria-label={label}
      disabled={disabled || isBusy} aria-busy={isBusy || undefined} aria-pressed={isPressed}
    >
      {icon && <Icon name={icon} />}{children !== undefined && <span>{children}</span>}
    </button>
  )
}
