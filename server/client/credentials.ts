/** What TLS needs from files: certificates in libnbd's layout, or shared keys in GnuTLS's. Read at each connect. */
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import {
  type ConnectionOptions,
  checkServerIdentity,
  getCACertificates,
  type PeerCertificate,
} from 'node:tls'
import { quote } from '../../crds/quote.ts'
import { codeOf } from '../linux/errno.ts'
import { TlsError } from './errors.ts'
import type { NbdTlsTerms } from './uri.ts'

/** NBD asks for TLS 1.2 at least. */
const MIN_VERSION = 'TLSv1.2'
/** Ciphers that authenticate by the shared key; with others any certificate would do. TLS 1.3 has its own list. */
const PSK_CIPHERS = [
  ...['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256'],
  ...['ECDHE-PSK-CHACHA20-POLY1305', 'ECDHE-PSK-AES256-CBC-SHA384', 'ECDHE-PSK-AES128-CBC-SHA256'],
  ...[
    'DHE-PSK-AES256-GCM-SHA384',
    'DHE-PSK-AES128-GCM-SHA256',
    'PSK-AES256-GCM-SHA384',
    'PSK-AES128-GCM-SHA256',
  ],
].join(':')
/** Longest key or certificate file that is read, in bytes. */
const MAX_FILE = 2 ** 20

async function read(path: string): Promise<Buffer> {
  try {
    const bytes = await readFile(path)
    if (bytes.length > MAX_FILE)
      throw new TlsError('EFBIG', `${quote(path)} is too long for a key or certificate.`)
    return bytes
  } catch (cause) {
    if (cause instanceof TlsError) throw cause
    throw new TlsError(codeOf(cause) ?? 'EIO', `Cannot read ${quote(path)}; check the path and its rights.`, {
      cause,
    })
  }
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await read(path)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

async function certificateOptions(terms: NbdTlsTerms, host: string): Promise<ConnectionOptions> {
  const name = terms.hostname ?? host
  const options: ConnectionOptions = {
    minVersion: MIN_VERSION,
    rejectUnauthorized: terms.verifyPeer ?? true,
    // Node's own check would take the name from `servername`, which may not be an address.
    checkServerIdentity: (_: string, certificate: PeerCertificate) => checkServerIdentity(name, certificate),
    ...(isIP(name) === 0 ? { servername: name } : {}),
  }
  if (terms.certificates === undefined) return { ...options, ca: getCACertificates('system') }
  const folder = terms.certificates
  const [ca, cert, key, crl] = await Promise.all([
    read(join(folder, 'ca-cert.pem')),
    readIfThere(join(folder, 'client-cert.pem')),
    readIfThere(join(folder, 'client-key.pem')),
    readIfThere(join(folder, 'ca-crl.pem')),
  ])
  if ((cert === undefined) !== (key === undefined)) {
    const missing = cert === undefined ? 'client-cert.pem' : 'client-key.pem'
    throw new TlsError('ENOENT', `There is no ${missing} in ${quote(folder)}; give both or neither.`)
  }
  return {
    ...options,
    ca,
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(crl === undefined ? {} : { crl }),
  }
}

function ownName(): string {
  try {
    return userInfo().username
  } catch (cause) {
    throw new TlsError('ENOENT', 'The process has no user name; give tls-username.', { cause })
  }
}

/** Finds the key of a user in the text of a PSK file: lines `user:hexkey`, others are ignored. */
function findKey(text: string, user: string): string | undefined {
  for (const line of text.split('\n')) {
    const separator = line.lastIndexOf(':')
    if (separator > 0 && line.slice(0, separator) === user) return line.slice(separator + 1).trim()
  }
  return undefined
}

async function pskOptions(pskFile: string, terms: NbdTlsTerms): Promise<ConnectionOptions> {
  const identity = terms.username ?? ownName()
  const hex = findKey((await read(pskFile)).toString('utf8'), identity)
  if (hex === undefined) {
    throw new TlsError('ENOENT', `There is no key for user ${quote(identity)} in ${quote(pskFile)}.`)
  }
  if (!/^(?:[0-9a-f]{2}){1,256}$/i.test(hex)) {
    throw new TlsError(
      'EINVAL',
      `The key for user ${quote(identity)} in ${quote(pskFile)} is not hexadecimal.`,
    )
  }
  const psk = Buffer.from(hex, 'hex')
  return {
    minVersion: MIN_VERSION,
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity }),
    rejectUnauthorized: true,
    // Whoever shows a certificate does not prove to have the key, whoever signed it.
    checkServerIdentity: (_: string, certificate: PeerCertificate) =>
      certificate.raw === undefined
        ? undefined
        : new Error('The server showed a certificate in place of the key.'),
    ca: [],
  }
}

/**
 * Options for `tls.connect`. `host` is the name that the server's certificate must bear.
 * @throws TlsError
 */
export function tlsOptions(terms: NbdTlsTerms, host: string): Promise<ConnectionOptions> {
  return terms.pskFile === undefined ? certificateOptions(terms, host) : pskOptions(terms.pskFile, terms)
}
