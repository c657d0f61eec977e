/** A TCP address to listen on, as Node and people take it. */
import type { ListenOptions } from 'node:net'

/** Where to listen. `host` is an address without brackets, a name, or `*`. */
export interface TcpAddress {
  readonly host: string
  readonly port: number
}

/**
 * What `net.Server.listen` needs. An IPv6 address is that alone and takes no IPv4 clients. `*` takes clients of both
 * kinds, and is all of IPv4 where the kernel has no IPv6: without a host Node looks for that by itself.
 */
export function tcpListenOptions({ host, port }: TcpAddress): ListenOptions {
  return host === '*' ? { port } : { host, port, ipv6Only: host.includes(':') }
}

/** The address with its port, an IPv6 address in brackets. */
export function describeTcpAddress({ host, port }: TcpAddress): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}
