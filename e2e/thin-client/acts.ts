/** What a thin client lets the test do outside of it, in the middle of its script: an HTTP server of the test's. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** By the name that the thin client asks for: a request for `/NAME`, by any method, is answered when the act is done. */
export type Acts = Readonly<Record<string, () => Promise<unknown>>>

export interface ActServer extends Disposable {
  /** On 127.0.0.1, which the thin client reaches as 10.0.2.2. */
  readonly port: number
  /** What went wrong so far, by the names of the acts; the thin client gets status 500 with the same words. */
  readonly failures: readonly string[]
}

export async function serveActs(acts: Acts): Promise<ActServer> {
  const failures: string[] = []
  const server = createServer((request, response) => {
    const name = request.url?.slice(1) ?? ''
    const act = acts[name] ?? (() => Promise.reject(new Error('There is no such act.')))
    act().then(
      () => response.end(),
      error => {
        failures.push(`${name}: ${error}`)
        response.writeHead(500).end(String(error))
      },
    )
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    failures,
    [Symbol.dispose]: () => server.close(),
  }
}
