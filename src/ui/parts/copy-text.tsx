/** Text that is copied by pressing it. */
import { addNotice } from '../stores/notices.ts'

export function CopyText ({ text, shown = text, what }: { text: string, shown?: string, what: string }) {
  const copy = () => {
    void navigator.clipboard?.writeText(text).then(() => addNotice('done', `Copied the ${what}`), () => addNotice('failed', `The browser does not let the ${what} be copied`))
  }
  return <button type='button' class='copy mono' title={`Copy ${text}`} onClick={copy}>{shown}</button>
}
