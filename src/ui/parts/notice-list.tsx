/** Where short messages appear; once on the page. */
import { dropNotice, notices } from '../stores/notices.ts'
import { Button } from './button.tsx'

export function NoticeList () {
  return (
    <div class='notices' role='status' aria-live='polite'>
      {notices.value.map(({ id, kind, text }) => (
        <div key={id} class={`notice ${kind}`}><p>{text}</p><Button kind='quiet' icon='close' label='Dismiss' onClick={() => dropNotice(id)} /></div>
      ))}
    </div>
  )
}
