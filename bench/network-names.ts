/** A name server outside, for benchmarks: `network-names.ts ADDRESS ANSWER` answers every question for IPv4 with the one address, and says when it is ready. */
import { createSocket } from 'node:dgram'
import * as dns from 'dns-packet'

const [address = '', answer = ''] = process.argv.slice(2)
const socket = createSocket('udp4')
socket.on('message', (message, peer) => {
  const { id = 0, questions = [] } = dns.decode(message)
  const [question] = questions
  if (!question) return
  const answers: dns.Answer[] = question.type === 'A' ? [{ type: 'A', name: question.name, ttl: 60, data: answer }] : []
  socket.send(dns.encode({ type: 'response', id, flags: dns.RECURSION_DESIRED | dns.RECURSION_AVAILABLE, questions, answers }), peer.port, peer.address)
})
socket.bind({ address, port: 53 }, () => { process.stdout.write('ready\n') })
