/** A window over the page: the browser's own dialog, so that keys, focus and what lies behind behave as they should. */
import type { ComponentChildren } from 'preact'
import { useEffect, useId, useRef } from 'preact/hooks'
import { Button } from './button.tsx'

export interface DialogProps {
  title: string
  onClose: () => void
  children: ComponentChildren
  isWide?: boolean
}

export function Dialog ({ title, onClose, children, isWide = false }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null)
  const titleId = useId()
  useEffect(() => {
    const dialog = element.current!
    const before = document.activeElement
    dialog.showModal()
    return () => {
      dialog.close()
      if (before instanceof HTMLElement) before.focus()
    }
  }, [])
  const onPointerDown = (event: PointerEvent) => { if (event.target === element.current) onClose() }
  return (
    <dialog ref={element} class={isWide ? 'dialog wide' : 'dialog'} aria-labelledby={titleId} onCancel={event => { event.preventDefault(); onClose() }} onPointerDown={onPointerDown}>
      <div class='dialog-body'>
        <header class='dialog-head'>
          <h2 id={titleId}>{title}</h2>
          <Button kind='quiet' icon='close' label='Close' onClick={onClose} />
        </header>
        {children}
      </div>
    </dialog>
  )
}
