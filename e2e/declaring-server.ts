/** Disks that manifests declare: a server that follows a directory of these, and its clients. */
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach } from 'vitest'
import { check, run, type Scratch, type ServerProcess, scratch, startServer } from './harness.ts'
import { PYTHON } from './libnbd.ts'

/** A manifest whose spec is this YAML, each line indented already. */
export const manifest = (name: string, spec: string, metadata = '') =>
  `apiVersion: ondemanddisk.dev/v1alpha1
kind: OnDemandDisk
metadata:
  name: ${name}
${metadata}spec:
${spec}
`

/** A spec of a disk that is made at once. */
export const BLANK = `  size: 1Mi
  command: truncate -s "$size" "$disk"`

/** Opens a disk and reads a sector 50 times a second until that fails, or the time is over. */
const HOLDER = `
import nbd, sys, time
h = nbd.NBD(); h.connect_uri(sys.argv[1])
print("open", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        h.pread(512, 0)
    except nbd.Error as error:
        print("lost", flush=True)
        sys.exit(0)
    time.sleep(0.02)
print("kept", flush=True)
`

/** A client that has a disk open. */
export interface Holder {
  /** Milliseconds from the call until the client has lost its disk; Infinity if it keeps it. */
  lost(): Promise<number>
}

async function hold(uri: string, seconds: number): Promise<Holder> {
  let onLine = (_: string) => {}
  const lines: string[] = []
  const saw = (wanted: string) =>
    new Promise<void>(resolve => {
      if (lines.includes(wanted)) resolve()
      onLine = line => line === wanted && resolve()
    })
  const ended = check(PYTHON, ['-c', HOLDER, uri, String(seconds)], {
    onLine: line => {
      lines.push(line)
      onLine(line)
    },
  })
  await Promise.race([saw('open'), ended])
  return {
    async lost() {
      const startedAt = performance.now()
      const output = await ended
      return output.includes('lost') ? performance.now() - startedAt : Number.POSITIVE_INFINITY
    },
  }
}

/** Lists names only, where nbdinfo --list also asks for all that there is to know of each. */
const LISTER = `
import nbd, sys
h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(sys.argv[1])
h.opt_list(lambda name, description: print(name) or 0)
h.opt_abort()
`

/** A server for each test, with directories of disks and of manifests that go away with it. */
export interface DeclaringServer {
  readonly disks: string
  readonly manifests: string
  start(...args: readonly string[]): Promise<void>
  stop(): Promise<number | undefined>
  kill(): Promise<void>
  /** Writes a file as a program does that means well: under another name first. */
  put(name: string, text: string): Promise<void>
  remove(name: string): Promise<void>
  log(): string
  /** Reasons in the log for this message, by the export or file that it is about. */
  reasons(message: string): Readonly<Record<string, string>>
  uri(name: string): string
  /** The size in bytes that a client sees. */
  size(name: string): Promise<number>
  /** Can nbdinfo open it? */
  isServed(name: string): Promise<boolean>
  isListed(name: string): Promise<boolean>
  /** Has a client open a disk for some seconds; resolves when it has. */
  hold(name: string, seconds?: number): Promise<Holder>
}

export function useDeclaringServer(): DeclaringServer {
  let disks: Scratch
  let manifests: Scratch
  let server: ServerProcess | undefined

  beforeEach(async () => {
    disks = await scratch()
    manifests = await scratch()
  })

  afterEach(async () => {
    await server?.[Symbol.asyncDispose]()
    server = undefined
    await disks[Symbol.asyncDispose]()
    await manifests[Symbol.asyncDispose]()
  })

  const log = () => server?.log() ?? ''
  const uri = (name: string) => server?.uri(name) ?? ''
  return {
    log,
    uri,
    get disks() {
      return disks.path
    },
    get manifests() {
      return manifests.path
    },
    async start(...args) {
      server = await startServer(['--dir', disks.path, '--disks', manifests.path, ...args])
    },
    stop: async () => await server?.stop(),
    kill: async () => await server?.kill(),
    async put(name, text) {
      await writeFile(join(manifests.path, `.${name}`), text)
      await rename(join(manifests.path, `.${name}`), join(manifests.path, name))
    },
    remove: name => rm(join(manifests.path, name)),
    reasons: message =>
      Object.fromEntries(
        log()
          .split('\n')
          .filter(line => line.includes(`"${message}"`))
          .map(line => JSON.parse(line) as { file?: string; export?: string; reason: string })
          .map(({ file, export: name, reason }) => [file ?? name ?? '', reason]),
      ),
    size: async name => Number(await check('nbdinfo', ['--size', uri(name)])),
    isServed: async name => (await run('nbdinfo', [uri(name)])).status === 0,
    isListed: async name => (await check(PYTHON, ['-c', LISTER, uri('')])).split('\n').includes(name),
    hold: (name, seconds = 8) => hold(uri(name), seconds),
  }
}
