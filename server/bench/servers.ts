/**
 * The servers that are compared, each with its own defaults on the same directory of files. All run at the same
 * time, and idle while another is measured.
 */
import { writeFileSync } from 'node:fs'
import type { NetConnectOpts } from 'node:net'
import { join } from 'node:path'
import { freePort, type Running, startListening } from './process.ts'

export type ServerName =
  | 'ondemand-disk'
  | 'nbdkit file'
  | 'nbdkit ondemand'
  | 'qemu-nbd'
  | 'nbd-server'
  | typeof BEFORE
/** Our server as another checkout has it. */
export const BEFORE = 'before'

/** How the clients of a row reach the servers. */
export type Transport = 'tcp' | 'unix' | 'tls'

/** What a row needs of its servers. */
export interface ServerTerms {
  readonly transport: Transport
  /** Directory of the disks. */
  readonly directory: string
  /** Files in it that will be used. */
  readonly disks: readonly string[]
  /** Folder for sockets and configuration. */
  readonly scratch: string
  /** Folder with ca-cert.pem, server-cert.pem and server-key.pem. */
  readonly certificates: string
  /** Checkout that BEFORE is run from. */
  readonly before: string | undefined
}

/** A server that a row is measured on. */
export interface Server {
  readonly name: ServerName
  readonly pids: readonly number[]
  /** `nbd://` URI of a disk. */
  uri(disk: string): string
  /** Where it listens, for a client of our own; TCP only. */
  readonly port: number
  /** How one of its processes has ended by itself; undefined while all run. */
  ending(): string | undefined
  stop(): Promise<void>
}

/** One process: its command line for an endpoint, and the disks that it serves. */
interface Program {
  readonly argv: (endpoint: Endpoint) => readonly string[]
  readonly disks: readonly string[]
  /** Where it leaves its process id, if it goes to the background. */
  readonly pidFile?: string
}

interface Endpoint {
  readonly port: number
  readonly socket: string
  readonly transport: Transport
}

const OWN_CHECKOUT = join(import.meta.dirname, '../..')

function nbdkit({ port, socket, transport }: Endpoint, terms: ServerTerms, plugin: readonly string[]) {
  const where = transport === 'unix' ? ['-U', socket] : ['-i', '127.0.0.1', '-p', String(port)]
  const tls =
    transport === 'tls' ? ['--tls', 'require', '--tls-certificates', terms.certificates] : ['--tls', 'off']
  // With its default of 16 threads a connection 2000 connections exceed the kernel's pid_max of 32768.
  const threads = terms.disks.length >= 2000 ? ['--threads', '15'] : []
  return ['nbdkit', '-f', ...threads, ...tls, ...where, ...plugin]
}

function qemuNbd({ port, socket, transport }: Endpoint, terms: ServerTerms, disk: string) {
  const where = transport === 'unix' ? ['-k', socket] : ['-b', '127.0.0.1', '-p', String(port)]
  // Its lock on the image would keep the others out.
  const file = `driver=raw,file.driver=file,file.locking=off,file.filename=${join(terms.directory, disk)}`
  const limits = ['--persistent', '--shared=0', '--discard=unmap']
  return ['qemu-nbd', ...limits, ...where, '-x', disk, '--image-opts', file]
}

const pidFileOf = ({ scratch }: ServerTerms) => join(scratch, 'nbd-server.pid')

function nbdServer({ port, socket, transport }: Endpoint, terms: ServerTerms) {
  const exports = terms.disks.map(
    disk => `[${disk}]\nexportname = ${join(terms.directory, disk)}\nflush = true\nfua = true\ntrim = true\n`,
  )
  // With a unix socket it does not listen on TCP.
  const where = transport === 'unix' ? `unixsock = ${socket}\n` : `listenaddr = 127.0.0.1\nport = ${port}\n`
  const generic = `[generic]\n${where}allowlist = true\n`
  const file = join(terms.scratch, 'nbd-server.conf')
  writeFileSync(file, generic + exports.join(''))
  return ['nbd-server', '-C', file, '-p', pidFileOf(terms)]
}

function ours({ port, socket, transport }: Endpoint, terms: ServerTerms, checkout: string) {
  const where = transport === 'unix' ? ['--unix', socket] : ['--listen', `127.0.0.1:${port}`]
  const { certificates, directory } = terms
  const file = (name: string) => join(certificates, name)
  const tls =
    transport === 'tls'
      ? ['--tls', 'require', '--tls-cert', file('server-cert.pem'), '--tls-key', file('server-key.pem')]
      : []
  const limits = [
    '--connections-per-disk',
    '16',
    '--max-connections',
    '10000',
    '--max-connections-per-client',
    '10000',
    '--log-level',
    'error',
  ]
  const disks = ['--dir', directory, '--no-create']
  return [join(checkout, 'hack/ondemand-disk'), 'serve', ...disks, ...limits, ...where, ...tls]
}

function programsOf(name: ServerName, terms: ServerTerms): Program[] {
  const { disks, directory } = terms
  switch (name) {
    case 'ondemand-disk':
      return [{ disks, argv: endpoint => ours(endpoint, terms, OWN_CHECKOUT) }]
    case BEFORE:
      return [{ disks, argv: endpoint => ours(endpoint, terms, terms.before ?? OWN_CHECKOUT) }]
    case 'nbdkit file':
      return [{ disks, argv: endpoint => nbdkit(endpoint, terms, ['file', `dir=${directory}`]) }]
    case 'nbdkit ondemand':
      return [
        { disks, argv: endpoint => nbdkit(endpoint, terms, ['ondemand', `dir=${directory}`, 'size=1G']) },
      ]
    case 'nbd-server':
      // It cannot stay in the foreground.
      return [{ disks, argv: endpoint => nbdServer(endpoint, terms), pidFile: pidFileOf(terms) }]
    case 'qemu-nbd':
      // It serves one disk a process.
      return disks.map(disk => ({ disks: [disk], argv: endpoint => qemuNbd(endpoint, terms, disk) }))
  }
}

function uriOf({ port, socket, transport }: Endpoint, disk: string, { certificates }: ServerTerms): string {
  if (transport === 'unix') return `nbd+unix:///${disk}?socket=${socket}`
  if (transport === 'tcp') return `nbd://127.0.0.1:${port}/${disk}`
  return `nbds://localhost:${port}/${disk}?tls-certificates=${certificates}`
}

/** A program that has run leaves compiled code behind, so that only the first start after a change is another. */
const startOnce = async (argv: readonly string[], where: NetConnectOpts) =>
  (await startListening(argv, where)).stop()

/** Starts one server, which may be several processes. */
export async function startServer(name: ServerName, terms: ServerTerms): Promise<Server> {
  const running: Running[] = []
  const uris = new Map<string, string>()
  let first = 0
  const stop = async () => {
    await Promise.all(running.map(one => one.stop()))
  }
  try {
    for (const { argv, disks, pidFile } of programsOf(name, terms)) {
      const port = await freePort()
      const socket = join(terms.scratch, `${name.replace(' ', '-')}-${running.length}.sock`)
      const endpoint = { port, socket, transport: terms.transport }
      const where = terms.transport === 'unix' ? { path: socket } : { port, host: '127.0.0.1' }
      if (name === 'ondemand-disk' || name === BEFORE) await startOnce(argv(endpoint), where)
      running.push(await startListening(argv(endpoint), where, pidFile))
      for (const disk of disks) uris.set(disk, uriOf(endpoint, disk, terms))
      first ||= port
    }
  } catch (error) {
    await stop()
    throw error
  }
  return {
    name,
    pids: running.map(({ pid }) => pid),
    port: first,
    uri: disk => uris.get(disk) ?? '',
    ending: () => running.map(one => one.ending()).find(text => text !== undefined),
    stop,
  }
}
