/** Who may connect: clients at addresses of their own, and a server whose rules they meet. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import {
  check,
  type Scratch,
  type ServerOptions,
  type ServerProcess,
  scratch,
  startServer,
} from './harness.ts'
import { PYTHON } from './libnbd.ts'

/** Disks that are made at once. */
export const BLANK = ['--size', '1M', '--command', 'truncate -s "$size" "$disk"']

/**
 * A client at an address of its own. Prints what becomes of it: `silence` (the server hangs up without a
 * byte), `open`, or the error; and the names that are listed to it.
 */
const CLIENT = `
import json, nbd, socket, sys
source, host, port, name = sys.argv[1:5]
def connected():
    if host.startswith("/"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(host)
        return s
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if source: s.bind((source, 0))
    s.settimeout(10)
    s.connect((host, int(port)))
    s.settimeout(None)
    return s
s = connected()
if s.recv(1, socket.MSG_PEEK) == b"":
    print(json.dumps({"outcome": "silence", "names": []}))
    sys.exit(0)
names = []
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_socket(s.detach())
h.opt_list(lambda listed, description: names.append(listed) or 0)
h.set_export_name(name)
try:
    h.opt_go()
    h.pread(512, 0)
    outcome = "open"
except nbd.Error as error:
    outcome = "refused"
print(json.dumps({"outcome": outcome, "names": sorted(names)}))
`

/** What becomes of a client. */
export interface Outcome {
  readonly outcome: 'silence' | 'open' | 'refused'
  readonly names: readonly string[]
}

/** Where a client comes from, and how it gets there. */
export interface Way {
  readonly source?: string
  readonly host: string
  readonly port?: number
  /** Network namespace. */
  readonly namespace?: string
}

/** Has a client ask for a disk, and for the list of all. */
export async function visit(
  { source = '', host, port = 0, namespace }: Way,
  name: string,
  script = CLIENT,
  onLine = (_: string): void => {},
): Promise<Outcome> {
  const command = [PYTHON, '-c', script, source, host, String(port), name]
  const [program = '', ...args] =
    namespace === undefined ? command : ['ip', 'netns', 'exec', namespace, ...command]
  const output = await check(program, args, { onLine, timeout: 90_000 })
  return JSON.parse(output.split('\n', 1)[0] ?? '') as Outcome
}

/** A client that has a disk open for some seconds; resolves when it has. */
export async function hold(
  way: Way,
  name: string,
  seconds: number,
): Promise<{ readonly end: Promise<unknown> }> {
  const script = `${CLIENT}\nprint("holding", flush=True)\nimport time; time.sleep(${seconds})`
  let holding = () => {}
  const ready = new Promise<void>(resolve => {
    holding = resolve
  })
  const end = visit(way, name, script, line => {
    if (line === 'holding') holding()
  })
  await Promise.race([ready, end])
  return { end }
}

export const outcomeOf = async (way: Way, name = 'disk') => (await visit(way, name)).outcome

/** A server for each test, in a folder that goes away with it. */
export interface VisitedServer {
  readonly folder: string
  readonly port: number
  /** Starts it on a directory of disks that is new for each test. */
  start(args: readonly string[], options?: ServerOptions): Promise<ServerProcess>
  stop(): Promise<number | undefined>
  /** Puts manifests of small disks, with these access rules, into a directory; returns its path. */
  declare(disks: Readonly<Record<string, { allow?: string[]; deny?: string[] }>>): Promise<string>
  /** The port that it has on this address. */
  portOn(address: string): Promise<number>
  /** Reasons for which clients were sent away before a byte was sent, by their addresses. */
  refusedClients(): Readonly<Record<string, string>>
}

export function useVisitedServer(): VisitedServer {
  let folder: Scratch
  let server: ServerProcess | undefined

  beforeEach(async () => {
    folder = await scratch()
  })

  afterEach(async () => {
    await server?.[Symbol.asyncDispose]()
    server = undefined
    await folder[Symbol.asyncDispose]()
  })

  return {
    get folder() {
      return folder.path
    },
    get port() {
      return server?.port ?? 0
    },
    async start(args, options) {
      const dir = join(folder.path, 'disks')
      await mkdir(dir, { recursive: true })
      server = await startServer(['--dir', dir, ...args], options)
      return server
    },
    stop: async () => await server?.stop(),
    async declare(disks) {
      const path = join(folder.path, 'manifests')
      await mkdir(path, { recursive: true })
      for (const [name, access] of Object.entries(disks)) {
        const manifest = {
          ...{ apiVersion: 'ondemanddisk.dev/v1alpha1', kind: 'OnDemandDisk', metadata: { name } },
          spec: { size: '1Mi', command: 'truncate -s "$size" "$disk"', access },
        }
        await writeFile(join(path, `${name}.json`), JSON.stringify(manifest))
      }
      return path
    },
    async portOn(address) {
      const port = () => server?.log().split(`"nbd://${address}:`)[1]?.match(/^\d+/)?.[0]
      await expect.poll(port).toBeDefined()
      return Number(port())
    },
    refusedClients: () =>
      Object.fromEntries(
        (server?.log() ?? '')
          .split('\n')
          .filter(line => line.includes('"Client refused"'))
          .map(line => JSON.parse(line) as { client: string; reason: string })
          .map(({ client, reason }) => [client.replace(/:\d+$/, ''), reason]),
      ),
  }
}
