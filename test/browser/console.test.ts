/** The console as a person uses it, in a real browser, on the real runtime. Screenshots are kept in build/test-output, or where BERTH_TEST_OUTPUT says. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Locator, Page } from 'playwright-core'
import type { Sandbox, SandboxPage } from '../../src/schemas/sandbox.ts'
import { keepScreenshot, TestBrowser } from '../support/browser.ts'
import { TestDaemon } from '../support/test-daemon.ts'
import { freePort } from '../support/free-port.ts'

const many = 500

test('the console', async t => {
  // The page comes back to where it was: the daemon keeps its port over its restarts.
  const port = await freePort()
  const browser = await TestBrowser.launch(t)
  const daemon = await TestDaemon.start(t, { args: ['--listen', `127.0.0.1:${port}`], env: { BERTH_NETWORK_POOL_SIZE: '2' } })
  const page = await browser.open({ colorScheme: 'dark' })
  const heading = (name: string | RegExp, on = page) => on.getByRole('heading', { name })
  const button = (name: string | RegExp, on: Page | Locator = page) => on.getByRole('button', { name })
  const signIn = async (on: Page, token = daemon.token) => {
    await on.goto(`${daemon.url}/`)
    await on.getByLabel('Token').fill(token)
    await button('Sign in', on).click()
  }
  const terminalOf = (on: Page) => on.locator('.xterm-rows')
  const shows = async (on: Page, text: string | RegExp) => await terminalOf(on).filter({ hasText: text }).waitFor()
  const type = async (on: Page, text: string) => {
    await on.locator('.xterm-helper-textarea').focus()
    await on.keyboard.type(text)
    await on.keyboard.press('Enter')
  }
  let sandboxId = ''
  /** One thing that a person does. What the page looked like when it could not be done is kept; nothing may have been refused by policy, or not be caught. */
  const step = async (name: string, run: () => Promise<void>) => await t.test(name, async () => {
    browser.complaints.length = 0
    try {
      await run()
    } catch (error) {
      for (const [index, open] of browser.pages().entries()) await keepScreenshot(open, `failed-${name.replaceAll(/\W+/g, '-')}-${index}`)
      throw error
    }
    assert.deepEqual(browser.complaints, [])
  })

  await step('lets nobody in without a token', async () => {
    await signIn(page, 'not-a-token')
    await page.getByText('This token is not known here.').waitFor()
    await keepScreenshot(page, 'sign-in-dark')
    await signIn(page)
    await heading(/^Sandboxes/).waitFor()
    await page.getByText('No sandboxes yet').waitFor()
  })

  await step('creates a sandbox, by the keyboard alone', async () => {
    await page.keyboard.press('n')
    await page.getByRole('dialog', { name: 'Create sandbox' }).waitFor()
    await page.keyboard.press('ControlOrMeta+a')
    await page.keyboard.type('berth/base')
    await keepScreenshot(page, 'create-sandbox-dark')
    await page.keyboard.press('Enter')
    await page.getByText('running', { exact: true }).first().waitFor()
    sandboxId = /sbx_[a-z0-9]{20}/.exec(page.url())?.[0] ?? ''
    assert.equal((await daemon.sandbox(sandboxId)).status, 'running')
    await page.keyboard.press('g')
    await page.keyboard.press('s')
    await page.getByRole('link', { name: sandboxId }).waitFor()
    await keepScreenshot(page, 'sandboxes-dark')
    await page.keyboard.press('?')
    await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor()
    await page.keyboard.press('Escape')
    await page.getByRole('link', { name: sandboxId }).press('Enter')
    await page.getByRole('link', { name: 'Terminals' }).waitFor()
  })

  await step('opens a terminal, of the size of its window', async () => {
    await page.getByRole('link', { name: 'Terminals' }).press('Enter')
    await button('Open terminal').click()
    await shows(page, '$')
    await type(page, 'echo $((6 * 7)) inside')
    await shows(page, '42 inside')
    const size = async () => {
      await type(page, 'clear; echo size $(stty size) end')
      await shows(page, /size \d+ \d+ end/)
      return /size (\d+) (\d+) end/.exec(await terminalOf(page).innerText())?.slice(1).map(Number) ?? []
    }
    const [rows = 0, cols = 0] = await size()
    await page.setViewportSize({ width: 900, height: 560 })
    await until('the program knows the smaller size', async () => {
      const [fewerRows = 0, fewerCols = 0] = await size()
      return fewerRows > 5 && fewerRows < rows && fewerCols > 20 && fewerCols < cols
    })
    await page.setViewportSize({ width: 1280, height: 800 })
    await type(page, "clear; for c in 1 2 3 4 5 6; do printf '\\033[3%dmcolour %d ' $c $c; done; printf '\\033[0m\\n'; ls -la /")
    await shows(page, 'workspace')
    await keepScreenshot(page, 'terminal-dark')
  })

  await step('shows every line after a reload in the midst of output', async () => {
    const lines = 120
    await type(page, `clear; i=0; while [ $i -lt ${lines} ]; do i=$((i+1)); echo "row $i."; usleep 20000; done; echo all rows`)
    await shows(page, 'row 30.')
    await page.reload()
    await shows(page, 'all rows')
    assert.deepEqual(await readBack(page, 'row'), Array.from({ length: lines }, (_, index) => `row ${index + 1}.`))
  })

  await step('says that the daemon is gone, and that it is back', async () => {
    await type(page, 'clear; i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo "tick $i."; usleep 100000; done; echo all ticks')
    await shows(page, 'tick 3.')
    await daemon.end('SIGKILL')
    await page.getByText('Connection to the daemon lost').waitFor()
    await keepScreenshot(page, 'connection-lost-dark')
    await daemon.start()
    await page.getByText('Connection to the daemon lost').waitFor({ state: 'hidden' })
    await shows(page, 'all ticks')
    assert.deepEqual(await readBack(page, 'tick'), Array.from({ length: 60 }, (_, index) => `tick ${index + 1}.`))
    await type(page, 'echo $((5 * 11)) again')
    await shows(page, '55 again')
  })

  await step('shows a terminal to others, who cannot type', async () => {
    const link = await shareLink(page)
    assert.doesNotMatch(link, new RegExp(daemon.token))
    const other = await browser.open({ colorScheme: 'light' })
    await other.goto(link)
    await other.getByLabel('Token').fill(daemon.token)
    await button('Sign in', other).click()
    await shows(other, '55 again')
    await type(other, 'echo from the one who looks')
    await type(page, 'echo $((7 * 11)) seen')
    await shows(other, '77 seen')
    await keepScreenshot(other, 'terminal-read-only-light')
    assert.doesNotMatch(await terminalOf(page).innerText(), /from the one who looks/)
    await other.context().close()
  })

  await step('follows the log of a task to its end', async () => {
    const { body: { id } } = await daemon.request<{ id: string }>('POST', '/v1/tasks', { image: 'berth/base', entrypoint: ['sh', '-c', 'for i in 1 2 3 4 5 6; do echo "step $i"; sleep 0.3; done; echo oh >&2; exit 3'] })
    await page.getByRole('link', { name: 'Tasks' }).click()
    await page.getByRole('link', { name: id }).click()
    await page.getByText('step 2').waitFor()
    await page.getByText('step 6').waitFor()
    await page.getByText(/exit(ed)?( code)?( with)? 3/i).first().waitFor()
    await page.getByLabel('Search the log').fill('step 4')
    await page.getByText('1 line', { exact: true }).waitFor()
    await keepScreenshot(page, 'task-dark')
  })

  await step('has pages for images, events and the host', async () => {
    for (const name of ['Images', 'Events', 'Host']) {
      await page.getByRole('link', { name, exact: true }).click()
      await heading(new RegExp(`^${name}`)).waitFor()
      await keepScreenshot(page, `${name.toLowerCase()}-dark`)
    }
  })

  await step('stays usable with many sandboxes', async () => {
    const other = await browser.open({ colorScheme: 'light' })
    const [template] = (await daemon.request<SandboxPage>('GET', '/v1/sandboxes')).body.items
    assert.ok(template)
    const items = Array.from({ length: many }, (_, index): Sandbox => ({
      ...template,
      id: `sbx_${String(index).padStart(20, '0')}`,
      labels: { team: ['blue', 'red', 'green'][index % 3] ?? '', number: String(index) },
      createdAt: new Date(Date.now() - index * 60_000).toISOString(),
    }))
    await other.route(/\/v1\/sandboxes(\?.*)?$/, async (route, request) => {
      if (request.method() !== 'GET') return await route.continue()
      const { searchParams } = new URL(request.url())
      const from = Number(searchParams.get('cursor') ?? 0)
      const to = from + Number(searchParams.get('limit') ?? 50)
      await route.fulfill({ json: { items: items.slice(from, to), ...to < many && { nextCursor: String(to) } } })
    })
    await signIn(other)
    await other.getByRole('link', { name: items[0]?.id }).waitFor()
    await other.getByText(String(many), { exact: true }).waitFor()
    await keepScreenshot(other, 'many-sandboxes-light')
    await other.getByRole('link', { name: items[0]?.id }).hover()
    await other.mouse.wheel(0, many * 100)
    await other.getByRole('link', { name: items[many - 1]?.id }).waitFor()
    await other.keyboard.press('/')
    await other.keyboard.type('number=321')
    await other.getByText(`1 of ${many}`).waitFor()
    await other.getByRole('link', { name: items[321]?.id }).waitFor()
    await other.context().close()
  })

  await step('deletes what it made, after asking', async () => {
    await page.getByRole('link', { name: 'Sandboxes', exact: true }).click()
    await button(`Delete ${sandboxId}`).click()
    await button('Delete', page.getByRole('dialog')).click()
    await page.getByRole('link', { name: sandboxId }).waitFor({ state: 'detached' })
    await button('Sign out').click()
    await page.getByLabel('Token').waitFor()
  })

  await step('asked for nothing elsewhere, and put no token into an address', async () => {
    assert.ok(browser.urls.some(url => url.startsWith('ws:') && url.includes('/attach')))
    for (const url of browser.urls) {
      assert.match(url, new RegExp(`^(http|ws)://127\\.0\\.0\\.1:${port}/|^(data|blob):`))
      assert.equal(url.includes(daemon.token), false, url)
    }
  })
})

/** All lines that a program printed as `<word> <n>.`, by scrolling back to the first of them. */
async function readBack (page: Page, word: string): Promise<string[]> {
  const found = new Set<string>()
  const first = `${word} 1.`
  await page.locator('.xterm-helper-textarea').focus()
  for (let step = 0; step < 40 && !found.has(first); step++) {
    for (const [line] of (await page.locator('.xterm-rows').innerText()).matchAll(new RegExp(`^${word} \\d+\\.(?=\\s*$)`, 'gm'))) found.add(line)
    await page.keyboard.press('Shift+PageUp')
    await page.waitForTimeout(50)
  }
  return [...found].sort((a, b) => Number(/\d+/.exec(a)) - Number(/\d+/.exec(b)))
}

/** The address that the page gives to show a terminal to others. */
async function shareLink (page: Page): Promise<string> {
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
  await page.getByRole('button', { name: 'Copy a read-only link' }).click()
  await page.getByText('Copied a link').waitFor()
  return await page.evaluate('navigator.clipboard.readText()')
}

async function until (what: string, isSo: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 15_000
  while (!await isSo()) assert.ok(Date.now() < end, `${what}: not so in time`)
}
