/** The console's beginning. */
import '@xterm/xterm/css/xterm.css'
import './style/base.css'
import './style/shell.css'
import './style/parts.css'
import './style/pages.css'
import { render } from 'preact'
import { App } from './app.tsx'
import { startClock } from './stores/clock.ts'
import { applyTheme } from './stores/theme.ts'

applyTheme(document.documentElement)
startClock(document)
render(<App />, document.getElementById('console')!)
