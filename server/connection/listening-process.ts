/** Listens on a unix socket and tells the identity of each client; run by peer.integration.test.ts in a process namespace of its own. */
import { listen } from './listener.ts'

const path = process.argv[2] as string
await listen(
  { kind: 'unix', path },
  (handle, client) => {
    process.stdout.write(`${client.identity}\n`)
    handle.close()
  },
  () => {},
)
process.stdout.write('listening\n')
