// A question before something happens. The browser's own dialog: it keeps the focus and closes with Escape.
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { CallError } from '../api.ts'
import { shown } from '../query.ts'
import { announcement, Problem } from './basics.tsx'

/** What a dialog asks. */
export interface DialogProps {
  title: string
  /** What the button that does it says. */
  action?: string
  danger?: boolean
  /** Does it; the dialog closes when it is done and shows what is thrown. */
  onConfirm?: () => Promise<unknown>
  onClose: () => void
  children?: ComponentChildren
}

/** A modal dialog, open for as long as it is there. */
export function Dialog({ title, action, danger = false, onConfirm, onClose, children }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null)
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<CallError>()
  // Before the next frame: a key or a click that follows at once must find the dialog open.
  useLayoutEffect(() => {
    const before = document.activeElement
    dialog.current?.showModal()
    return () => {
      if (before instanceof HTMLElement) before.focus()
    }
  }, [])
  const confirm = async () => {
    setBusy(true)
    setError(undefined)
    try {
      await onConfirm?.()
      announcement.value = `${action}: done.`
      onClose()
    } catch (problem) {
      setError(shown(problem))
      setBusy(false)
    }
  }
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault()
          void confirm()
        }}
      >
        <h2 id="dialog-title">{title}</h2>
        {children}
        <Problem error={error} />
        <div class="buttons">
          {action && (
            <button type="submit" class={danger ? 'danger' : 'primary'} disabled={busy}>
              {busy ? 'Working…' : action}
            </button>
          )}
          <button type="button" onClick={onClose}>
            {action ? 'Leave it' : 'Close'}
          </button>
        </div>
      </form>
    </dialog>
  )
}

/** A button that asks before it does something. */
export function Ask({
  label,
  class: looks,
  disabled,
  ...asked
}: { label: string; class?: string; disabled?: boolean } & Omit<DialogProps, 'onClose'>) {
  const [open, setOpen] = useState(false)
  return (
    <>
      <button type="button" class={looks} disabled={disabled} onClick={() => setOpen(true)}>
        {label}
      </button>
      {open && <Dialog {...asked} onClose={() => setOpen(false)} />}
    </>
  )
}
