/** A headless Chromium with a profile of its own, for tests: notes what pages ask for and complain of, keeps screenshots, and leaves nothing behind. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from 'playwright-core'
import { findProgram } from '../../src/host/command.ts'
import type { Teardown } from './test-daemon.ts'

/** Where screenshots are kept. */
export const outputDir = process.env['BERTH_TEST_OUTPUT'] ?? new URL('../../build/test-output/', import.meta.url).pathname

const actionMs = 15_000

/** Runs in every page before anything of its own. */
const tellOfViolations = `document.addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI, sourceFile }) => {
  console.error('refused by policy:', violatedDirective, blockedURI, sourceFile)
})`
const endsWithinMs = 10_000

export class TestBrowser {
  /** Every address that any page asked for, sockets' too. */
  readonly urls: string[] = []
  /** What pages complained of: errors that nobody caught, and what their content security policy refused. */
  readonly complaints: string[] = []
  readonly #browser: Browser
  readonly #contexts: BrowserContext[] = []

  private constructor (browser: Browser) {
    this.#browser = browser
  }

  /** Starts one; at the end of the test it is closed, and no process of it is left. @throws Error where Chromium is not installed. */
  static async launch (t: Teardown): Promise<TestBrowser> {
    const executablePath = findProgram('chromium') ?? findProgram('chromium-browser')
    if (executablePath === undefined) throw new Error('chromium is not installed here; run: npm run setup -- --tests')
    const dir = mkdtempSync(join(tmpdir(), 'berth-browser-'))
    const made: { browser?: Browser } = {}
    t.after(async () => {
      await made.browser?.close()
      const left = await untilNone(dir)
      rmSync(dir, { recursive: true, force: true })
      assert.deepEqual(left, [], 'no process of the browser is left')
    })
    made.browser = await chromium.launch({
      executablePath,
      headless: true,
      // The profile lies in the temporary directory, whatever else it writes in its home: nothing of it is anybody's, and nothing stays.
      env: { PATH: process.env['PATH'] ?? '', HOME: dir, TMPDIR: dir, XDG_RUNTIME_DIR: dir, LANG: 'C.UTF-8' },
      args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-crash-reporter', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
    })
    return new TestBrowser(made.browser)
  }

  /** All pages that are open. */
  pages (): Page[] {
    return this.#contexts.flatMap(context => context.pages())
  }

  /** A page of a person of its own: it shares nothing with other pages. */
  async open (options: BrowserContextOptions = {}): Promise<Page> {
    const context = await this.#browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: 'reduce', ...options })
    context.setDefaultTimeout(actionMs)
    this.#contexts.push(context)
    context.on('request', request => this.urls.push(request.url()))
    context.on('weberror', error => this.complaints.push(`not caught: ${error.error().stack ?? error.error().message}`))
    context.on('page', page => this.#watch(page))
    await context.addInitScript({ content: tellOfViolations })
    return await context.newPage()
  }

  #watch (page: Page): void {
    page.on('websocket', socket => this.urls.push(socket.url()))
    page.on('console', message => {
      // A daemon that is not there is what some tests are about.
      if (message.type() === 'error' && !/^Failed to load resource|WebSocket connection to|ERR_CONNECTION_REFUSED/.test(message.text())) this.complaints.push(message.text())
    })
  }
}

/** Keeps a picture of the page under this name. */
export async function keepScreenshot (page: Page, name: string): Promise<string> {
  mkdirSync(outputDir, { recursive: true })
  const path = join(outputDir, `${name}.png`)
  await page.screenshot({ path, animations: 'disabled' })
  return path
}

/** Processes that name the directory in their arguments or their environment, after a while in which they may end. */
async function untilNone (dir: string): Promise<string[]> {
  const until = Date.now() + endsWithinMs
  for (;;) {
    const left = readdirSync('/proc').filter(name => /^\d+$/.test(name)).flatMap(pid => {
      const [command = '', environment = ''] = ['cmdline', 'environ'].map(file => read(`/proc/${pid}/${file}`))
      return command !== '' && (command.includes(dir) || environment.includes(dir)) ? [`${pid} ${command.replaceAll('\0', ' ').slice(0, 200)}`] : []
    })
    if (left.length === 0 || Date.now() > until) return left
    await delay(50)
  }
}

function read (path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
