/** A client elsewhere (a pod, a container) that keeps a disk open until it is put off. */
import { spawn } from 'node:child_process'

/** A connection that is open. */
export interface Held extends AsyncDisposable {
  /** Resolves with `performance.now()` of the moment at which this process was told that it ended. */
  readonly ended: Promise<number>
}

/** Ends when its stdin does: a program in a pod or container outlives the one that started it there. */
const HOLD = `
import nbd, select, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print('open', flush=True)
try:
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        h.pread(512, 0)
except nbd.Error as error:
    print('ended', error, flush=True)
`

/**
 * Opens a disk and keeps it open, reading a block every 50 ms, until the connection ends. `program` with `into` runs
 * what follows where the client is to be, with its stdin; there has to be Python with libnbd there.
 */
export async function hold(
  program: string,
  into: readonly string[],
  uri: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Held> {
  const child = spawn(program, [...into, 'python3', '-c', HOLD, uri], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  let said = ''
  let opened: () => void = () => undefined
  const open = new Promise<void>(resolve => {
    opened = resolve
  })
  const ended = new Promise<number>(resolve => {
    const take = (text: string) => {
      said += text
      if (said.includes('open\n')) opened()
      if (said.includes('ended')) resolve(performance.now())
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
  })
  child.stdin.on('error', () => undefined)
  const closed = new Promise<never>((_, reject) => {
    child.once('error', reject)
    child.once('close', code => reject(new Error(`The client ended with ${code}:\n${said}`)))
  })
  // Whoever waits for `ended` is told by its own limit.
  closed.catch(() => undefined)
  await Promise.race([open, closed])
  return {
    ended,
    async [Symbol.asyncDispose]() {
      child.stdin.end()
      await closed.catch(() => undefined)
    },
  }
}
