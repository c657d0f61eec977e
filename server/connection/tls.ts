/**
 * The server's side of TLS: credentials from files, followed while the server runs, and the handshake on a
 * socket that has been speaking plain NBD.
 */
import { constants, X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { createServer, type SecureContextOptions, type TLSSocket } from 'node:tls'

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

/** Says of an error of a TLS connection what OpenSSL says, without where in its sources. */
export function tlsFailure(error: Error): TlsError {
  const { reason } = error as { reason?: unknown }
  const text = typeof reason === 'string' ? reason : error.message
  return new TlsError(`TLS failed: ${text}.`, { cause: error })
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
    const isHex = key.length * 2 === entry.length - colon - 1
    if (colon < 1 || !isHex || key.length < MIN_PSK_BYTES) {
      const wanted = `user:hexkey with a key of at least ${MIN_PSK_BYTES} bytes`
      throw new TlsCredentialsError(`--tls-psk: line ${index + 1} of ${path} is not ${wanted}.`)
    }
    keys.set(entry.slice(0, colon), key)
  }
  if (keys.size === 0) throw new TlsCredentialsError(`--tls-psk: ${path} holds no key.`)
  return keys
}

async function load({ cert, key, clientCa, psk }: TlsFiles): Promise<Credentials> {
  const context: SecureContextOptions = {
    minVersion: MIN_VERSION,
    honorCipherOrder: true,
    // No resumption: a resumed session would not show whether and how the client proved who it is.
    secureOptions: constants.SSL_OP_NO_TICKET,
    ciphers: [TLS13, ...(cert ? [WITH_CERTIFICATE] : []), ...(psk ? [WITH_PSK] : [])].join(':'),
    ...(cert && { cert: await read('tls-cert', cert) }),
    ...(key && { key: await read('tls-key', key) }),
    ...(clientCa && { ca: await read('tls-client-ca', clientCa) }),
  }
  const keys = psk ? parsePskFile((await read('tls-psk', psk)).toString('utf8'), psk) : new Map()
  checkMatch(context, cert, key)
  return { context, keys }
}

function checkMatch({ cert, key }: SecureContextOptions, certPath?: string, keyPath?: string): void {
  if (cert === undefined || key === undefined) return
  try {
    // Throws where OpenSSL cannot read one of them, or where they do not belong together.
    createServer({ cert, key }).close()
    new X509Certificate(cert as Buffer)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new TlsCredentialsError(
      `--tls-cert ${certPath} and --tls-key ${keyPath} cannot be used: ${reason}`,
      {
        cause: error,
      },
    )
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

/** Subject of a certificate in the order of RFC 4514. */
function subjectOf(socket: TLSSocket): string | undefined {
  return socket.getPeerX509Certificate()?.subject.split('\n').reverse().join(',')
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

function refusalOf(socket: TLSSocket): string {
  if (socket.getPeerX509Certificate() === undefined)
    return 'The client showed no certificate and proved no key.'
  return `The client's certificate is not accepted: ${String(socket.authorizationError)}.`
}

interface Handshake {
  resolve(secured: Secured): void
  reject(error: TlsError): void
}

/** The socket below; Node tells which only in this property. */
const plainOf = (socket: TLSSocket) => (socket as unknown as { _parent?: Socket })._parent

/**
 * Loads the credentials and follows their files. Changed files that cannot be used are reported, and the old
 * credentials stay.
 * @throws TlsCredentialsError
 */
export async function openTls(
  files: TlsFiles,
  events: { reloaded(): void; failed(error: Error): void },
): Promise<TlsAcceptor> {
  const wantsProof = files.clientCa !== undefined || files.psk !== undefined
  let seen = await fingerprint(files)
  let credentials = await load(files)
  const handshakes = new Map<Socket, Handshake>()
  const keyOf = (_: TLSSocket, identity: string) => credentials.keys.get(identity) ?? null
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
    ...(files.psk !== undefined && { pskCallback: keyOf }),
  })
  server.on('secureConnection', socket => {
    const handshake = settle(socket)
    // A client may say its last word and still read the replies.
    socket.allowHalfOpen = true
    if (handshake === undefined) {
      socket.destroy()
    } else if (wantsProof && !socket.authorized && !provedKey(socket)) {
      handshake.reject(new TlsError(refusalOf(socket)))
    } else {
      handshake.resolve({ socket, distinguishedName: socket.authorized ? subjectOf(socket) : undefined })
    }
  })
  server.on('tlsClientError', (error, socket) => {
    settle(socket)?.reject(tlsFailure(error))
  })

  const reload = async () => {
    const now = await fingerprint(files)
    if (now === seen) return
    seen = now
    try {
      credentials = await load(files)
      server.setSecureContext(credentials.context)
      events.reloaded()
    } catch (error) {
      events.failed(error as Error)
    }
  }
  const timer = setInterval(() => void reload(), RELOAD_MS)
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
