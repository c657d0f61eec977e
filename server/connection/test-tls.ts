/** What tests of TLS need: certificates made by openssl, a server that speaks TLS, and raw clients that go over to it. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { afterAll, beforeAll, expect, onTestFinished, vi } from 'vitest'
import { option, type RawClient, takeOptionReply, wrap } from './test-client.ts'
import { type Setup, serve, type TestServer } from './test-server.ts'
import { openTls, type TlsAcceptor, type TlsFiles } from './tls.ts'

export const STARTTLS = 5
/** Number of ERR_TLS_REQD without its high bit. */
export const TLS_REQD = 5

/** Who takes part: a folder of hack/test-certificates each. */
export type Participant =
  | 'server'
  | 'renewed'
  | 'alice'
  | 'bob'
  | 'imposter'
  | 'stranger'
  | 'expired'
  | 'nobody'

const folder = mkdtempSync(join(tmpdir(), 'ondemand-disk-tls-'))

/** To be called at the top of a test file: makes the certificates once for all its tests. */
export function makeCertificates(): void {
  beforeAll(() => {
    execFileSync(join(import.meta.dirname, '../../hack/test-certificates'), [folder])
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
}

/** Path of a file of the certificates: `alice/client-cert.pem`, `keys.psk`. */
export const certificateFile = (name: string) => join(folder, name)

const read = (name: string) => readFileSync(certificateFile(name))

/** The server's certificate and key, nothing else. */
export const serverFiles = (who: 'server' | 'renewed' = 'server'): TlsFiles => ({
  cert: certificateFile(`${who}/server-cert.pem`),
  key: certificateFile(`${who}/server-key.pem`),
  clientCa: undefined,
  psk: undefined,
})

/** The server wants proof: a certificate that its authority has signed. */
export const withClientCa = (): TlsFiles => ({
  ...serverFiles(),
  clientCa: certificateFile('authority/ca-cert.pem'),
})

/** The server knows pre-shared keys. */
export const withKeys = (files: Partial<TlsFiles> = {}): TlsFiles => ({
  cert: undefined,
  key: undefined,
  clientCa: undefined,
  ...files,
  psk: certificateFile('keys.psk'),
})

/** What is not the default of a server with TLS. */
export interface TlsSetup extends Setup {
  readonly files?: TlsFiles
  /** Nothing is possible without TLS (false). */
  readonly required?: boolean
  /** How often the files are looked at, in ms (20). */
  readonly reloadMs?: number
}

/** A server that speaks TLS, and what it tells of its credentials. */
export interface TlsTestServer extends TestServer {
  readonly acceptor: TlsAcceptor
  readonly reloads: ('reloaded' | Error)[]
  /** Connects and goes over to TLS, without a certificate unless options name one. */
  secured(options?: ConnectionOptions): Promise<SecureClient>
  /** The log's reasons for clients that failed in their handshake. */
  refusals(): string[]
}

/** Starts a server with TLS that is stopped with the test. */
export async function serveTls({
  files = serverFiles(),
  required = false,
  reloadMs = 20,
  ...setup
}: TlsSetup = {}): Promise<TlsTestServer> {
  const reloads: ('reloaded' | Error)[] = []
  const events = { reloaded: () => reloads.push('reloaded'), failed: (error: Error) => reloads.push(error) }
  const acceptor = await openTls(files, events, reloadMs)
  onTestFinished(() => acceptor.close())
  const server = await serve({ ...setup, tls: { required, acceptor } })
  return {
    ...server,
    acceptor,
    reloads,
    secured: async options => startTls(await server.greeted(), options),
    refusals: () =>
      server.log
        .filter(({ message }) => message === 'Handshake failed')
        .map(({ fields }) => String(fields.reason)),
  }
}

/** Waits for the one reason for which the server has refused a handshake. */
export async function refusalOf(server: TlsTestServer): Promise<string> {
  await vi.waitFor(() => expect(server.refusals()).toHaveLength(1))
  return server.refusals()[0] ?? ''
}

/** A raw client inside TLS. */
export interface SecureClient extends RawClient {
  readonly tls: TLSSocket
}

/** What a client shows: its certificate and key. */
export const showing = (who: Participant): ConnectionOptions => ({
  cert: read(`${who}/client-cert.pem`),
  key: read(`${who}/client-key.pem`),
})

/** A client that names itself and uses the key of that file, and can do nothing else. */
export function knowing(file: string, options: ConnectionOptions = {}): ConnectionOptions {
  const [identity = '', key = ''] = readFileSync(certificateFile(file), 'utf8').trim().split(':')
  return {
    pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
    checkServerIdentity: () => undefined,
    ...options,
  }
}

/** Does the client's part of a TLS handshake on the connection as it is; fails when the server does not want it. */
export async function goOverToTls(client: RawClient, options: ConnectionOptions = {}): Promise<SecureClient> {
  for (const event of ['data', 'end', 'close']) client.socket.removeAllListeners(event)
  const ca = read('authority/ca-cert.pem')
  const tls = connect({ ca, host: 'localhost', ...options, socket: client.socket })
  await new Promise<void>((resolve, reject) => {
    tls.once('secureConnect', resolve)
    tls.once('error', reject)
    tls.once('close', () => reject(new Error('The server hung up during the TLS handshake.')))
  })
  tls.removeAllListeners('error')
  return Object.assign(wrap(tls), { tls, reset: client.reset })
}

/** Asks for TLS and goes over to it. */
export async function startTls(client: RawClient, options?: ConnectionOptions): Promise<SecureClient> {
  client.send(option(STARTTLS))
  const { type, text } = await takeOptionReply(client)
  if (type !== 1) throw new Error(`STARTTLS failed: ${text}`)
  return goOverToTls(client, options)
}
