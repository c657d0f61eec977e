/**
 * URIs of NBD exports, by the NBD project's doc/uri.md and RFC 3986, with the TLS parameters that libnbd
 * knows. Parsed by hand: `URL` would resolve `..` in export names and drop tabs and line breaks. What comes
 * out goes to sockets and files only, never to a command line (CVE-2025-14946).
 */
import { isIPv6 } from 'node:net'
import { quote } from '../../crds/quote.ts'
import { MAX_STRING } from '../protocol/constants.ts'
import { UriError } from './errors.ts'

/** The port that IANA gave to NBD. */
export const NBD_PORT = 10_809
/** Longest path of a unix socket in bytes (sun_path, without its NUL). */
const MAX_SOCKET_PATH = 107

/** Where a server listens. */
export type NbdAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }

/** How TLS is done. Paths are those of files on this machine. */
export interface NbdTlsTerms {
  /** Directory with ca-cert.pem, client-cert.pem, client-key.pem. Default: the system's certificate authorities. */
  readonly certificates?: string
  /** File with lines `user:hexkey`: keys shared with the server instead of certificates. */
  readonly pskFile?: string
  /** Name for the key of `pskFile`. Default: that of the process's user. */
  readonly username?: string
  /** Name that the server's certificate must bear. Default: the host, `localhost` for a unix socket. */
  readonly hostname?: string
  /** Verify the server's certificate. Default true. */
  readonly verifyPeer?: boolean
}

/** An export and the way to it. */
export interface NbdUri {
  readonly address: NbdAddress
  readonly exportName: string
  /** There for `nbds` and `nbds+unix`: TLS is required then, and never used otherwise. */
  readonly tls?: NbdTlsTerms
}

const SHAPE = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i
// RFC 3986: unreserved, reserved and percent-encoded characters; everything else must be encoded.
const URI_CHARACTERS = /^[\w\-.~:/?#[\]@!$&'()*+,;=%]*$/
const HOST = /^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?$/i
const SCHEMES: ReadonlyMap<string, { unix: boolean; tls: boolean }> = new Map([
  ['nbd', { unix: false, tls: false }],
  ['nbds', { unix: false, tls: true }],
  ['nbd+unix', { unix: true, tls: false }],
  ['nbds+unix', { unix: true, tls: true }],
])
const TLS_PARAMETERS = ['tls-certificates', 'tls-psk-file', 'tls-username', 'tls-hostname', 'tls-verify-peer']

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch (cause) {
    throw new UriError(`The ${what} ${quote(text)} is not percent-encoded UTF-8.`, { cause })
  }
}

function unknownParameter(name: string, known: readonly string[]): string {
  if (name === 'socket') return 'The parameter socket belongs to a unix socket; give nbd+unix instead of nbd.'
  if (TLS_PARAMETERS.includes(name)) return `The parameter ${name} needs TLS; give nbds instead of nbd.`
  const hint = known.length === 0 ? 'there are none for this kind of URI' : `known are ${known.join(', ')}`
  return `The parameter ${quote(name)} is not known: ${hint}.`
}

/** Parameters by name; each at most once, each known. */
function parseQuery(query: string, known: readonly string[]): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>()
  if (query === '') return parameters
  for (const part of query.split('&')) {
    const separator = part.indexOf('=')
    const name = decode(separator < 0 ? part : part.slice(0, separator), 'parameter name')
    if (!known.includes(name)) throw new UriError(unknownParameter(name, known))
    if (parameters.has(name)) throw new UriError(`The parameter ${name} is given twice; give it once.`)
    const value = separator < 0 ? '' : decode(part.slice(separator + 1), `value of ${name}`)
    if (value === '') throw new UriError(`The parameter ${name} has no value.`)
    parameters.set(name, value)
  }
  return parameters
}

function checkedPath(path: string, what: string): string {
  if (path.includes('\0')) throw new UriError(`The ${what} ${quote(path)} has a NUL in it.`)
  return path
}

function parseSocket(path: string | undefined): NbdAddress {
  if (path === undefined) throw new UriError('The URI names no socket; add ?socket=PATH.')
  // A leading NUL means the abstract namespace; other NULs would cut the path.
  checkedPath(path.startsWith('\0') ? path.slice(1) : path, 'socket path')
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new UriError(`The socket path is longer than ${MAX_SOCKET_PATH} bytes; use a shorter one.`)
  }
  return { kind: 'unix', path }
}

function parseHost(text: string): string {
  if (text.startsWith('[') && text.endsWith(']')) {
    const address = decode(text.slice(1, -1), 'address')
    if (!isIPv6(address)) throw new UriError(`${quote(text)} is no IPv6 address in brackets.`)
    return address
  }
  const host = decode(text, 'host')
  if (host === '') throw new UriError('The URI names no host; give nbd://HOST[:PORT]/EXPORT.')
  if (!HOST.test(host) || host.length > 255) {
    throw new UriError(`${quote(host)} is no host name or address; an IPv6 address goes in brackets.`)
  }
  return host
}

function parsePort(text: string): number {
  if (text === '') return NBD_PORT
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0
  if (port < 1 || port > 65_535)
    throw new UriError(`The port ${quote(text)} is not a number from 1 to 65535.`)
  return port
}

function parseTcp(authority: string): NbdAddress {
  const match = /^(\[[^\]]*\]|[^:[\]]*)(?::(.*))?$/.exec(authority)
  if (match === null) throw new UriError(`${quote(authority)} is not HOST[:PORT].`)
  return { kind: 'tcp', host: parseHost(match[1] ?? ''), port: parsePort(match[2] ?? '') }
}

function parseVerifyPeer(value: string | undefined): boolean | undefined {
  if (value === undefined || value === '1' || value === '0')
    return value === undefined ? undefined : value === '1'
  throw new UriError(`The parameter tls-verify-peer is ${quote(value)}; give 0 or 1.`)
}

function parseTls(parameters: ReadonlyMap<string, string>, user: string | undefined): NbdTlsTerms {
  const text = (name: string) => {
    const value = parameters.get(name)
    return value === undefined ? undefined : checkedPath(value, name)
  }
  const certificates = text('tls-certificates')
  const pskFile = text('tls-psk-file')
  if (certificates !== undefined && pskFile !== undefined) {
    throw new UriError('The parameters tls-certificates and tls-psk-file exclude each other; give one.')
  }
  if (user !== undefined && parameters.has('tls-username')) {
    throw new UriError('The user name is given twice, before @ and by tls-username; give it once.')
  }
  const username = text('tls-username') ?? user
  const hostname = text('tls-hostname')
  if (hostname !== undefined && !HOST.test(hostname) && !isIPv6(hostname)) {
    throw new UriError(`The parameter tls-hostname is ${quote(hostname)}, which is no host name or address.`)
  }
  const verifyPeer = parseVerifyPeer(text('tls-verify-peer'))
  return {
    ...(certificates === undefined ? {} : { certificates }),
    ...(pskFile === undefined ? {} : { pskFile }),
    ...(username === undefined ? {} : { username }),
    ...(hostname === undefined ? {} : { hostname }),
    ...(verifyPeer === undefined ? {} : { verifyPeer }),
  }
}

function parseUser(text: string | undefined): string | undefined {
  if (text === undefined || text === '') return undefined
  if (text.includes(':')) throw new UriError('The URI has a password in it; NBD has none, remove it.')
  return checkedPath(decode(text, 'user name'), 'user name')
}

/**
 * Parses `nbd://HOST[:PORT]/EXPORT`, `nbds://`, `nbd+unix:///EXPORT?socket=PATH`, `nbds+unix://`.
 * @throws UriError
 */
export function parseNbdUri(text: string): NbdUri {
  if (!URI_CHARACTERS.test(text)) {
    throw new UriError(`${quote(text)} has characters that a URI must percent-encode.`)
  }
  const match = SHAPE.exec(text)
  const scheme = SCHEMES.get(match?.[1]?.toLowerCase() ?? '')
  if (match === null || scheme === undefined) {
    throw new UriError(
      `${quote(text)} is not the URI of an NBD export. Give nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, with nbds for TLS.`,
    )
  }
  const [, , authority = '', path = '', query = ''] = match
  const at = authority.lastIndexOf('@')
  const user = parseUser(at < 0 ? undefined : authority.slice(0, at))
  const place = authority.slice(at + 1)
  const known = [...(scheme.unix ? ['socket'] : []), ...(scheme.tls ? TLS_PARAMETERS : [])]
  const parameters = parseQuery(query, known)
  if (user !== undefined && !scheme.tls)
    throw new UriError('A user name needs TLS; give nbds instead of nbd.')
  if (scheme.unix && place !== '')
    throw new UriError(`The URI names the host ${quote(place)} beside its socket.`)
  const exportName = checkedPath(decode(path.slice(1), 'export name'), 'export name')
  if (Buffer.byteLength(exportName) > MAX_STRING) {
    throw new UriError(`The export name is longer than ${MAX_STRING} bytes.`)
  }
  return {
    address: scheme.unix ? parseSocket(parameters.get('socket')) : parseTcp(place),
    exportName,
    ...(scheme.tls ? { tls: parseTls(parameters, user) } : {}),
  }
}

/** An address as people read it: `host:10809`, `[::1]:10809`, `unix:/run/nbd`. For messages. */
export function describeAddress(address: NbdAddress): string {
  if (address.kind === 'unix') return quote(`unix:${address.path}`)
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`
}
