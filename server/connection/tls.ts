/**
 * The server's side of TLS: credentials from files, followed while the server runs, and the handshake on a
 * socket that has been speaking plain NBD.
 */
import { constants, X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { createSecureContext, createServer, type SecureContextOptions, type TLSSocket } from 'node:tls'
import { quote } from '../../crds/quote.ts'
import { plainOf } from './tls-stream.ts'

/** Files with the server's credentials: a certificate with its key, or pre-shared keys, or both. */
export interface TlsFiles {
  /** Certificate chain, PEM. */
  readonly cert: string | undefined
  /** Private key of the certificate, PEM. */
  readonly key: string | undefined
  /** Authorities of the certificates that clients have to show, PEM. */
  readonly clientCa: string | undefined
  /** Pre-shared keys, `user:hexkey` a line, as GnuTLS's psktool and nbdkit write them. */
  readonly psk: string | undefined
}

/** Credentials that cannot be used. */
export class TlsCredentialsError extends Error {
  override readonly name = 'TlsCredentialsError'
  readonly code = 'ECREDENTIALS'
}

/** A TLS handshake that failed, a client that could not prove who it is, or a connection that broke later. */
export class TlsError extends Error {
  override readonly name = 'TlsError'
  readonly code = 'ETLS'
}

/** What OpenSSL says, without where in its sources it says so. */
function reasonOf(error: unknown): string {
  const { reason, message } = error as { reason?: unknown; message?: unknown }
  return String(reason ?? message ?? error)
}

/** Makes the error of a TLS connection one for people. */
export function tlsFailure(error: Error, addition = ''): TlsError {
  return new TlsError(`TLS failed: ${reasonOf(error)}${addition}.`, { cause: error })
}

/** A connection that speaks TLS now. */
export interface Secured {
  readonly socket: TLSSocket
  /** Subject of the client's verified certificate, most specific part first: `CN=alice,O=lab`. */
  readonly distinguishedName: string | undefined
}

/** Makes connections secure with the credentials of the moment. */
export interface TlsAcceptor {
  /**
   * Does the server's part of a TLS handshake on a connected socket.
   * @throws TlsError
   */
  accept(plain: Socket): Promise<Secured>
  /** Stops following the files. */
  close(): void
}

/** How often the files are looked at, in ms. */
const RELOAD_MS = 2000
/** Least key that may be used, in bytes: with PSK it is all there is to guess. */
const MIN_PSK_BYTES = 16
/** The longest key and name that OpenSSL takes, in bytes. */
const MAX_PSK_BYTES = 512
const MAX_IDENTITY_BYTES = 128
/** Our own clock measures the handshake (`--handshake-timeout`); Node's must not strike before it. */
const NO_TIMEOUT_MS = 2 ** 31 - 1
/** What the protocol demands at least (proto.md, "TLS versions"). */
const MIN_VERSION = 'TLSv1.2'

// A pre-shared key fits the SHA-256 suites of TLS 1.3 only, so these go first.
const TLS13 = 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384'
const WITH_CERTIFICATE = 'ECDHE+AESGCM:ECDHE+CHACHA20'
// The CBC suites are the only ones with forward secrecy that GnuTLS and OpenSSL share for PSK in TLS 1.2.
const WITH_PSK =
  'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-GCM-SHA384:PSK-AES256-GCM-SHA384'

interface Credentials {
  readonly context: SecureContextOptions
  readonly keys: ReadonlyMap<string, Buffer>
}

async function read(option: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new TlsCredentialsError(`--${option}: ${path} cannot be read (${code}).`, { cause: error })
  }
}

/**
 * Parses a PSK file; empty lines and lines that begin with `#` say nothing.
 * @throws TlsCredentialsError naming the line, never the key
 */
export function parsePskFile(text: string, path: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>()
  for (const [index, line] of text.split('\n').entries()) {
    const entry = line.trimEnd()
    if (entry === '' || entry.startsWith('#')) continue
    const colon = entry.lastIndexOf(':')
    const key = Buffer.from(entry.slice(colon + 1), 'hex')
    const identity = entry.slice(0, Math.max(colon, 0))
    const isHex = key.length * 2 === entry.length - colon - 1
    const fits = key.length >= MIN_PSK_BYTES && key.length <= MAX_PSK_BYTES
    if (identity === '' || Buffer.byteLength(identity) > MAX_IDENTITY_BYTES || !isHex || !fits) {
      const wanted = `user:hexkey with a key of ${MIN_PSK_BYTES} to ${MAX_PSK_BYTES} bytes`
      throw new TlsCredentialsError(`--tls-psk: line ${index + 1} of ${path} is not ${wanted}.`)
    }
    if (keys.has(identity)) {
      const repeated = `line ${index + 1} of ${path} gives ${quote(identity)} another key`
      throw new TlsCredentialsError(`--tls-psk: ${repeated}.`)
    }
    keys.set(identity, key)
  }
  if (keys.size === 0) throw new TlsCredentialsError(`--tls-psk: ${path} holds no key.`)
  return keys
}

/** @throws TlsCredentialsError naming the option */
async function load({ cert, key, clientCa, psk }: TlsFiles): Promise<Credentials> {
  const keys = psk ? parsePskFile((await read('tls-psk', psk)).toString('utf8'), psk) : new Map()
  const context: SecureContextOptions = {
    minVersion: MIN_VERSION,
    honorCipherOrder: true,
    // No resumption: a resumed session would not show whether and how the client proved who it is.
    secureOptions: constants.SSL_OP_NO_TICKET,
    ciphers: [TLS13, ...(cert ? [WITH_CERTIFICATE] : []), ...(psk ? [WITH_PSK] : [])].join(':'),
    ...(cert && { cert: await read('tls-cert', cert) }),
    ...(key && { key: await read('tls-key', key) }),
    ...(clientCa && { ca: parseAuthorities(await read('tls-client-ca', clientCa), clientCa) }),
  }
  try {
    // Throws where OpenSSL cannot read one of them, or where they do not belong together.
    createSecureContext(context)
  } catch (error) {
    throw new TlsCredentialsError(
      `--tls-cert ${cert} and --tls-key ${key} cannot be used: ${reasonOf(error)}.`,
      { cause: error },
    )
  }
  return { context, keys }
}

/** Node passes over what is no certificate; nobody, or not everybody, would be admitted then. */
function parseAuthorities(pem: Buffer, path: string): string[] {
  const blocks = pem.toString('latin1').match(/-----BEGIN [^-]+-----[^-]*(?:-----END [^-]+-----)?/g) ?? []
  if (blocks.length === 0) throw new TlsCredentialsError(`--tls-client-ca: ${path} holds no certificate.`)
  try {
    return blocks.map(block => new X509Certificate(block).toString())
  } catch (error) {
    const reason = `holds something that is no certificate: ${reasonOf(error)}`
    throw new TlsCredentialsError(`--tls-client-ca: ${path} ${reason}.`, { cause: error })
  }
}

/** What tells that a file has changed; a secret that Kubernetes replaces is another inode behind the same links. */
async function fingerprint(files: TlsFiles): Promise<string> {
  const parts = Object.values(files).map(async path => {
    if (path === undefined) return ''
    const found = await stat(path).catch(() => undefined)
    return found && `${found.dev} ${found.ino} ${found.size} ${found.mtimeMs}`
  })
  return (await Promise.all(parts)).join('|')
}

/**
 * Subject of a certificate as RFC 4514 writes it. A comma inside of a value is written `\2C`, the other way that
 * the RFC knows: after `\,` a pattern's `*,O=lab` would take what the client calls itself for its organisation.
 */
function subjectOf(socket: TLSSocket): string | undefined {
  const parts = socket.getPeerX509Certificate()?.subject.split('\n')
  const withoutCommas = (part: string) => part.replace(/\\./g, pair => (pair === '\\,' ? '\\2C' : pair))
  return parts?.reverse().map(withoutCommas).join(',')
}

/**
 * Did the client prove a pre-shared key? That it named one is not enough: where its suites do not fit, OpenSSL goes
 * on without it, by the server's certificate. In TLS 1.3 a key is used in the way of a resumed session, of
 * which there are no others here.
 */
function provedKey(socket: TLSSocket): boolean {
  if (socket.getProtocol() === 'TLSv1.3') return socket.isSessionReused()
  return socket.getCipher().name.includes('PSK')
}

function refusalOf(socket: TLSSocket, identity: string | undefined): string {
  if (socket.getPeerX509Certificate() !== undefined)
    return `The client's certificate is not accepted: ${String(socket.authorizationError)}.`
  const named = identity === undefined ? '' : `, though it called itself ${quote(identity)}`
  return `The client showed no certificate and proved no key${named}.`
}

interface Handshake {
  resolve(secured: Secured): void
  reject(error: TlsError): void
}

/**
 * Loads the credentials and follows their files. Changed files that cannot be used are reported, and the old
 * credentials stay. The files are looked at every `reloadMs`.
 * @throws TlsCredentialsError
 */
export async function openTls(
  files: TlsFiles,
  events: { reloaded(): void; failed(error: Error): void },
  reloadMs: number = RELOAD_MS,
): Promise<TlsAcceptor> {
  const wantsProof = files.clientCa !== undefined || files.psk !== undefined
  let seen = await fingerprint(files)
  let credentials = await load(files)
  const handshakes = new Map<Socket, Handshake>()
  /** Whom clients said to be, for the log. */
  const identities = new WeakMap<TLSSocket, string>()
  const keyOf = (socket: TLSSocket, identity: string) => {
    identities.set(socket, identity)
    return credentials.keys.get(identity) ?? null
  }
  const settle = (socket: TLSSocket) => {
    const plain = plainOf(socket)
    const handshake = plain && handshakes.get(plain)
    if (plain) handshakes.delete(plain)
    return handshake
  }
  // It never listens: connections are handed to it when their clients have asked for TLS.
  const server = createServer({
    ...credentials.context,
    requestCert: files.clientCa !== undefined,
    // Checked below, where the reason can be told to the log.
    rejectUnauthorized: false,
    handshakeTimeout: NO_TIMEOUT_MS,
    ...(files.psk !== undefined && { pskCallback: keyOf }),
  })
  server.on('secureConnection', socket => {
    const handshake = settle(socket)
    // A client may say its last word and still read the replies.
    socket.allowHalfOpen = true
    if (handshake === undefined) {
      socket.destroy()
    } else if (wantsProof && !socket.authorized && !provedKey(socket)) {
      handshake.reject(new TlsError(refusalOf(socket, identities.get(socket))))
    } else {
      handshake.resolve({ socket, distinguishedName: socket.authorized ? subjectOf(socket) : undefined })
    }
  })
  server.on('tlsClientError', (error, socket) => {
    const identity = identities.get(socket)
    settle(socket)?.reject(tlsFailure(error, identity && ` (the client calls itself ${quote(identity)})`))
  })

  const reload = async () => {
    const now = await fingerprint(files)
    if (now === seen) return
    seen = now
    try {
      const next = await load(files)
      server.setSecureContext(next.context)
      credentials = next
      events.reloaded()
    } catch (error) {
      events.failed(error as Error)
    }
  }
  const timer = setInterval(() => void reload(), reloadMs)
  timer.unref()

  return {
    accept: plain =>
      new Promise((resolve, reject) => {
        handshakes.set(plain, { resolve, reject })
        plain.once('close', () => {
          handshakes.delete(plain)
          reject(new TlsError('The client left during the TLS handshake.'))
        })
        // Node overlooks a client that hangs up in the middle of the handshake if it may do so by half.
        plain.allowHalfOpen = false
        server.emit('connection', plain)
      }),
    close: () => clearInterval(timer),
  }
}
