/** Reads an NFLOG group, as nobody once it is open, and prints what comes as lines of JSON, until its standard input ends. */
import { NflogReader } from '../../src/host/nflog.ts'

const nobody = 65534

const reader = NflogReader.open(Number(process.argv[2]), {
  onPacket: packet => print({ packet }),
  onFailed: error => { throw error },
})
process.setgroups?.([])
process.setgid?.(nobody)
process.setuid?.(nobody)
print({ uid: process.getuid?.() })
process.stdin.resume()
process.stdin.on('end', () => { void reader.close().then(() => print({ isClosed: true })) })

function print (line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}
