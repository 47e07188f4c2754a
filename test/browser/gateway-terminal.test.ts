/** The console of a host as a person sees it by way of a gateway: below a path, and with a token of the fleet. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import { keepScreenshot, TestBrowser } from '../support/browser.ts'
import { startJoinedHost } from '../support/joined-host.ts'

test('a terminal of a host is used in the console that a gateway shows', async t => {
  const browser = await TestBrowser.launch(t)
  const { gateway, daemon, workerId } = await startJoinedHost(t, { env: { BERTH_NETWORK_POOL_SIZE: '2' } })
  const { body: { id } } = await gateway.request<Sandbox>('POST', '/v1/sandboxes', { image: 'berth/base', resources: { cpuMillis: 500, memoryBytes: 256 * 1024 ** 2 } })
  const [client, read] = [await gateway.makeToken('client'), await gateway.makeToken('read')]
  const page = await browser.open({ colorScheme: 'dark' })
  const root = `${gateway.url}/v1/workers/${workerId}/api`
  const signIn = async (token: string) => {
    await page.getByLabel('Token').fill(token)
    await page.getByRole('button', { name: 'Sign in' }).click()
  }
  const shows = async (text: string) => await page.locator('.xterm-rows').filter({ hasText: text }).waitFor()
  const type = async (text: string) => {
    await page.locator('.xterm-helper-textarea').focus()
    await page.keyboard.type(text)
    await page.keyboard.press('Enter')
  }
  try {
    // Without the slash at its end: it is led there.
    await page.goto(root)
    assert.equal(page.url(), `${root}/`)
    // The gateway does not know the host's tokens.
    await signIn(daemon.token)
    await page.getByText('This token is not known here.').waitFor()
    await signIn(client)
    await page.getByRole('link', { name: id }).click()
    await page.getByRole('link', { name: 'Terminals' }).click()
    await page.getByRole('button', { name: 'Open terminal' }).click()
    await shows('$')
    await type('echo $((6 * 7)) inside')
    await shows('42 inside')
    await keepScreenshot(page, 'gateway-terminal')
    const address = page.url()

    // Who may only read makes no ticket: the token goes where headers would.
    const reader = await browser.open()
    await reader.goto(`${address}${address.includes('?') ? '&' : '?'}role=read`)
    await reader.getByLabel('Token').fill(read)
    await reader.getByRole('button', { name: 'Sign in' }).click()
    await reader.locator('.xterm-rows').filter({ hasText: '42 inside' }).waitFor()
    await reader.getByText('Read only').waitFor()
  } catch (error) {
    for (const [index, open] of browser.pages().entries()) await keepScreenshot(open, `failed-gateway-terminal-${index}`)
    throw error
  }
  assert.deepEqual(browser.complaints, [])
  const strays = browser.urls.filter(url => !url.startsWith(`${root}`) && !url.startsWith(root.replace(/^http/, 'ws')))
  assert.deepEqual(strays, [], 'nothing was asked for beside the host\'s own path')
  assert.ok(!browser.urls.some(url => [client, read, daemon.token].some(token => url.includes(token))), 'no token is in an address')
})
