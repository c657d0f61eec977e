/** Ours, nbdkit and qemu-nbd, each with a disk of the same size, for what is to be tried on all three. */
import { spawn } from 'node:child_process'
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ServerProcess, scratch, startServer } from '../harness.ts'

export const SIZE = 40 * 2 ** 20
export const DISK = 'disk'

export const SERVERS = ['ours', 'nbdkit', 'qemu-nbd'] as const
type ServerName = (typeof SERVERS)[number]
/** What each of them did, in words. */
export type Outcomes = Readonly<Record<ServerName, string>>

/** How a server is reached: by unix sockets, one for a disk that may only be read. */
export interface Sockets {
  readonly writable: string
  readonly readOnly: string
}

export interface ThreeServers extends AsyncDisposable {
  /** Tries something on all three; nbdkit and qemu-nbd have to be installed. */
  onEach(attempt: (sockets: Sockets) => Promise<string>): Promise<Outcomes>
  /** Ends ours as a service manager does; returns the exit statuses. */
  stopOurs(): Promise<number[]>
}

/** A server of others, which is killed when it is disposed of. */
async function startForeign(
  program: string,
  socket: string,
  ...args: readonly string[]
): Promise<AsyncDisposable> {
  const child = spawn(program, args, { stdio: 'ignore' })
  const ended = new Promise(resolve => child.once('exit', resolve).once('error', resolve))
  const server = {
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  }
  for (let tries = 0; tries < 300; tries++) {
    const answers = await new Promise<boolean>(resolve => {
      const probe = connect({ path: socket })
      probe.once('connect', () => resolve(true)).once('error', () => resolve(false))
      probe.once('connect', () => probe.destroy())
    })
    if (answers) return server
    await sleep(50)
  }
  await server[Symbol.asyncDispose]()
  throw new Error(`${program} does not listen on ${socket}.`)
}

/** Starts ours; the others are started when they are first needed, since they may not be installed. */
export async function startThreeServers(): Promise<ThreeServers> {
  const folder = await scratch()
  const file = (name: string) => join(folder.path, name)
  await mkdir(file('disks'))
  for (const name of [`disks/${DISK}`, 'nbdkit', 'qemu']) {
    await writeFile(file(name), '')
    await truncate(file(name), SIZE)
  }
  const sockets = (server: ServerName): Sockets => ({
    writable: file(`${server}.sock`),
    readOnly: file(`${server}-ro.sock`),
  })
  const ours: ServerProcess[] = []
  const disks = ['--dir', file('disks'), '--size', String(SIZE), '--wait']
  const blank = ['--command', 'truncate -s "$size" "$disk"']
  const { writable, readOnly } = sockets('ours')
  ours.push(await startServer([...disks, ...blank, '--unix', writable]))
  ours.push(await startServer([...disks, ...blank, '--read-only', '--unix', readOnly]))

  const peers: AsyncDisposable[] = []
  async function startPeers(): Promise<void> {
    if (peers.length > 0) return
    for (const kind of ['writable', 'readOnly'] as const) {
      const option = kind === 'readOnly' ? ['-r'] : []
      const [kit, qemu] = [sockets('nbdkit')[kind], sockets('qemu-nbd')[kind]]
      peers.push(await startForeign('nbdkit', kit, '-f', ...option, '-U', kit, 'file', file('nbdkit')))
      const args = ['-t', '-e', '8', '-f', 'raw', ...option, '-x', DISK, '-k', qemu, file('qemu')]
      peers.push(await startForeign('qemu-nbd', qemu, ...args))
    }
  }

  return {
    async onEach(attempt) {
      await startPeers()
      const [a = '', b = '', c = ''] = await Promise.all(SERVERS.map(server => attempt(sockets(server))))
      return { ours: a, nbdkit: b, 'qemu-nbd': c }
    },
    stopOurs: () => Promise.all(ours.map(server => server.stop())),
    async [Symbol.asyncDispose]() {
      for (const server of [...peers, ...ours, folder]) await server[Symbol.asyncDispose]()
    },
  }
}
