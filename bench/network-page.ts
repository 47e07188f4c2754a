/** A program to be previewed, inside a sandbox: a small page on every address, connections kept. `network-page.ts PORT` */
import { createServer } from 'node:http'

createServer((_request, response) => { response.end('hello') }).listen(Number(process.argv[2]), '0.0.0.0')
