import { type KeyboardEvent, type PointerEvent, type ReactNode, useEffect, useRef } from "react";

export interface DialogProps {
  open: boolean;
  /** While it is busy, neither Escape nor a click beside it closes it. */
  busy: boolean;
  onClose(): void;
  labelledBy: string;
  describedBy: string;
  className: string;
  children: ReactNode;
}

const FOCUSABLE = "button:not([disabled]), a[href], input:not([disabled]), select:not([disabled]), textarea:not([disabled]), [tabindex='0']";

/** The browser's own modal dialog: above everything, with the page behind it inert, and the focus back where it was when it closes. */
export function Dialog({ open, busy, onClose, labelledBy, describedBy, className, children }: DialogProps): ReactNode {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    if (!dialog) return;
    if (open && !dialog.open) {
      dialog.showModal();
      // The browser takes the first; the one to use comes last.
      focusIn(dialog);
    }
    if (!open && dialog.open) dialog.close();
  }, [open]);
  // What had the focus may have gone with another content.
  useEffect(() => {
    const dialog = ref.current;
    if (!open || !dialog || (dialog.contains(document.activeElement) && document.activeElement !== dialog)) return;
    focusIn(dialog);
  });
  return (
    <dialog
      ref={ref}
      className={className}
      aria-labelledby={labelledBy}
      aria-describedby={describedBy}
      onCancel={(event) => {
        if (busy) event.preventDefault();
      }}
      onClose={(event) => {
        if (event.target === event.currentTarget) onClose();
      }}
      onPointerDown={(event: PointerEvent) => {
        // The dialog has no padding: only its backdrop is the dialog itself.
        if (event.target === event.currentTarget && !busy) onClose();
      }}
      onKeyDown={keepInside}
    >
      {open && children}
    </dialog>
  );
}

function focusIn(dialog: HTMLDialogElement): void {
  (dialog.querySelector<HTMLElement>("[data-autofocus]") ?? dialog.querySelector<HTMLElement>(FOCUSABLE))?.focus();
}

/** Tab goes from the last to the first: without this it would leave for the browser's own controls. */
function keepInside(event: KeyboardEvent<HTMLDialogElement>): void {
  if (event.key !== "Tab") return;
  const found = [...event.currentTarget.querySelectorAll<HTMLElement>(FOCUSABLE)];
  const edge = event.shiftKey ? found[0] : found.at(-1);
  if (document.activeElement !== edge) return;
  event.preventDefault();
  (event.shiftKey ? found.at(-1) : found[0])?.focus();
}
