/** What is built ahead, into build/: the program that works on files inside sandboxes, and the console. Each only where its sources have changed. */
import { parseArgs } from 'node:util'
import { buildConsole } from './build-console.ts'
import { buildNative } from './build-native.ts'

const { values } = parseArgs({ options: { quiet: { type: 'boolean', default: false } } })
buildNative(values)
await buildConsole(values)
