/** Sockets that accept clients, and the rules before the first byte. */
import { stat } from 'node:fs/promises'
import { createServer, type ListenOptions, type Server, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { describeTcpAddress, type TcpAddress, tcpListenOptions } from '../linux/listen-address.ts'
import { listenReason } from '../linux/reasons.ts'
import { closesOwnSocket, removeStaleSocket } from '../linux/stale-socket.ts'
import { configureTcp, configureUnix, type Liveness, socketKind } from '../linux/syscalls.ts'
import { unixSocketPath } from '../linux/unix-path.ts'
import { type DescriptorHandle, takeHandle } from './handle.ts'
import { type Client, tcpClient, unixClient } from './peer.ts'

/** A vanished client is noticed after 10 + 3 * 5 = 25 s, within the 30 s that are promised. */
const LIVENESS: Liveness = { idle: 10, interval: 5, probes: 3, unacknowledged: 25 }
const BACKLOG = 1024
/**
 * Bytes of replies that a unix socket holds: room for several large ones. With room for one of 256 KiB only, the server
 * would go to sleep in the middle of each second one.
 */
const UNIX_REPLIES = 2 ** 20

/** Where to listen: an address and port, a path, or a descriptor that is listening already. */
export type Endpoint =
  | ({ readonly kind: 'tcp' } & TcpAddress)
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'descriptor'; readonly descriptor: number }

/** A socket that listens. */
export interface Listener {
  /** How clients name it: `nbd://127.0.0.1:10809`, `nbd+unix:///?socket=/run/x`. */
  readonly uri: string
  /** Takes no more clients. */
  close(): Promise<void>
}

/** A place to listen on that cannot be had. */
export class ListenError extends Error {
  override readonly name = 'ListenError'
  readonly code: string

  constructor(message: string, code: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

function describe(endpoint: Endpoint): string {
  if (endpoint.kind === 'unix') return endpoint.path
  if (endpoint.kind === 'descriptor') return `descriptor ${endpoint.descriptor}`
  return describeTcpAddress(endpoint)
}

function listenError(endpoint: Endpoint, error: NodeJS.ErrnoException): ListenError {
  const code = error.code ?? 'EIO'
  const reason = listenReason(code, error.message)
  return new ListenError(`Cannot listen on ${describe(endpoint)}: ${reason}.`, code, { cause: error })
}

/** Node knows the path of a unix socket only where it has bound it itself. */
async function uriOf(server: Server, endpoint: Endpoint): Promise<string> {
  const isGiven = endpoint.kind === 'descriptor' && isUnixSocket(endpoint)
  const address = isGiven ? ((await unixSocketPath(endpoint.descriptor)) ?? null) : server.address()
  if (typeof address === 'string')
    return `nbd+unix:///?socket=${encodeURIComponent(address).replaceAll('%2F', '/')}`
  if (address === null) return describe(endpoint)
  return `nbd://${describeTcpAddress({ host: address.address, port: address.port })}`
}

/** libuv says EACCES where the directory of a socket does not exist. */
async function checkDirectory(endpoint: Endpoint & { kind: 'unix' }): Promise<void> {
  try {
    await stat(dirname(endpoint.path))
  } catch (error) {
    throw listenError(endpoint, error as NodeJS.ErrnoException)
  }
}

const isUnixSocket = (endpoint: Endpoint): boolean =>
  endpoint.kind === 'unix' || (endpoint.kind === 'descriptor' && socketKind(endpoint.descriptor).isUnix)

function checkDescriptor(endpoint: Endpoint & { kind: 'descriptor' }): void {
  if (socketKind(endpoint.descriptor).accepts) return
  const problem = 'it is no stream socket that listens; its unit needs ListenStream= and Accept=no'
  throw new ListenError(`Cannot listen on ${describe(endpoint)}: ${problem}.`, 'EINVAL')
}

function listenOptions(endpoint: Endpoint): ListenOptions & { fd?: number } {
  if (endpoint.kind === 'unix') return { path: endpoint.path, backlog: BACKLOG }
  if (endpoint.kind === 'descriptor') return { fd: endpoint.descriptor }
  return { ...tcpListenOptions(endpoint), backlog: BACKLOG }
}

/** Takes the socket over from Node's, which would read it in its own way. */
function adopt(accepted: Socket, isUnix: boolean): { handle: DescriptorHandle; client: Client } | undefined {
  // Node looks the address up at the handle, and only once.
  const { remoteAddress, remotePort } = accepted
  const handle = takeHandle(accepted)
  // Without its handle nothing is left of it but its place in the server's count, which would keep close() waiting.
  accepted.destroy()
  if (handle === undefined) return undefined
  try {
    const client = isUnix ? unixClient(handle.fd) : tcpClient(remoteAddress, remotePort)
    if (isUnix) configureUnix(handle.fd, UNIX_REPLIES)
    else configureTcp(handle.fd, LIVENESS)
    return { handle, client }
  } catch {
    // It has gone before it was looked at.
    handle.close()
    return undefined
  }
}

/**
 * Listens, and hands each client over as soon as it is accepted.
 * @throws ListenError
 */
export async function listen(
  endpoint: Endpoint,
  accept: (handle: DescriptorHandle, client: Client) => void,
  onError: (error: Error) => void,
): Promise<Listener> {
  if (endpoint.kind === 'unix') {
    await checkDirectory(endpoint)
    await removeStaleSocket(endpoint.path).catch(error => {
      throw listenError(endpoint, error as NodeJS.ErrnoException)
    })
  }
  if (endpoint.kind === 'descriptor') checkDescriptor(endpoint)
  const isUnix = isUnixSocket(endpoint)
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, accepted => {
    const adopted = adopt(accepted, isUnix)
    if (adopted !== undefined) accept(adopted.handle, adopted.client)
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', error => reject(listenError(endpoint, error)))
    server.listen(listenOptions(endpoint), resolve)
  })
  server.on('error', onError)
  const close = () => new Promise<void>(resolve => server.close(() => resolve()))
  const closeSocket = endpoint.kind === 'unix' ? closesOwnSocket(endpoint.path) : undefined
  return {
    uri: await uriOf(server, endpoint),
    close: () => closeSocket?.(close) ?? close(),
  }
}
