/** Who is at the other end of a connection. */
import type { Peer } from '../../crds/access-rules.ts'
import { peerProcess } from '../linux/syscalls.ts'

/** A client: for access rules, for counting, and for people. */
export interface Client {
  readonly peer: Peer
  /** The same for all connections of one client: its address, or its process on a unix socket. */
  readonly identity: string
  /** With the port, for the log. */
  readonly shown: string
  /** The connection speaks TLS. */
  readonly secured: boolean
}

const MAPPED_IPV4 = /^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i

let unknownProcesses = 0

/**
 * Client of an accepted unix socket. A process of another namespace has no number here: each of its
 * connections is a client of its own, lest two programs share a disk as one.
 */
export function unixClient(fd: number): Client {
  const { pid, uid } = peerProcess(fd)
  const identity = pid > 0 ? `unix:pid=${pid}` : `unix:unknown=${++unknownProcesses}`
  return { peer: { kind: 'unix' }, identity, shown: `${identity},uid=${uid}`, secured: false }
}

/** Client of an accepted TCP socket. Throws if the client has gone already and so has no address. */
export function tcpClient(remoteAddress: string | undefined, remotePort: number | undefined): Client {
  if (remoteAddress === undefined) throw new Error('The client has gone.')
  const address = remoteAddress.replace(MAPPED_IPV4, '')
  const shown = address.includes(':') ? `[${address}]:${remotePort}` : `${address}:${remotePort}`
  return { peer: { kind: 'ip', address }, identity: address, shown, secured: false }
}

/** The same client after a TLS handshake, with the subject of its certificate if it showed one. */
export function securedClient(client: Client, distinguishedName: string | undefined): Client {
  const peer = distinguishedName === undefined ? client.peer : { ...client.peer, distinguishedName }
  return { ...client, peer, secured: true }
}
