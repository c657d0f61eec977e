/** TLS against the servers that have it, and against those that pretend. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { encodeGreeting, encodeOptionReply } from '../protocol/handshake.ts'
import { connect } from './client.ts'
import { listExports, probe } from './discovery.ts'
import { ConnectionError, RefusedError, TlsError } from './errors.ts'
import { connectReconnecting } from './reconnecting.ts'
import { makeAuthority } from './test-certificates.ts'
import { scripted } from './test-scripted-server.ts'
import { fileAppears, freePort, makeFolder, needPrograms, startNbdkit, startServer } from './test-servers.ts'

const KEY = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff'
const OTHER_KEY = KEY.replaceAll('0', '1')

interface Pki {
  readonly folder: string
  /** By the one authority that counts. */
  readonly server: string
  readonly client: string
  readonly caOnly: string
  /** By another one. */
  readonly foreign: string
  readonly elsewhere: string
  readonly expired: string
  readonly psk: string
}

let pki: Pki

beforeAll(() => {
  const folder = makeFolderForAll()
  const authority = makeAuthority(join(folder, 'ca'), 'Test authority')
  const foreign = makeAuthority(join(folder, 'foreign-ca'), 'Other authority')
  const names = 'DNS:localhost,IP:127.0.0.1'
  const psk = join(folder, 'keys.psk')
  writeFileSync(psk, `bob:${OTHER_KEY}\nalice:${KEY}\nbroken:xyz\n`)
  pki = {
    folder,
    server: authority.issue(join(folder, 'server'), 'server', names),
    client: authority.issue(join(folder, 'client'), 'client', 'DNS:client'),
    caOnly: authority.folder,
    foreign: foreign.issue(join(folder, 'foreign'), 'client', 'DNS:client'),
    elsewhere: authority.issue(join(folder, 'elsewhere'), 'server', 'DNS:other.example'),
    expired: authority.issue(join(folder, 'expired'), 'server', names, -1),
    psk,
  }
  return () => rmSync(folder, { recursive: true })
})

function makeFolderForAll(): string {
  const path = `/tmp/nbd-client-tls-${process.pid}-${randomBytes(4).toString('hex')}`
  mkdirSync(path, { mode: 0o700 })
  return path
}

async function nbdkit(...args: readonly string[]): Promise<number> {
  const port = await freePort()
  await startNbdkit(makeFolder(), port, ...args, 'memory', '4M')
  return port
}

const x509 = (certificates: string) => `tls-certificates=${certificates}`

describe('With certificates', () => {
  test('nbdkit is written and read', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${pki.server}`, '--tls-verify-peer')
    const uri = `nbds://localhost:${port}/?${x509(pki.client)}`
    const client = await connect(uri)
    const bytes = randomBytes(3 * 2 ** 20)
    const read = Buffer.alloc(bytes.length)
    await Promise.all([
      client.pwrite(bytes, 0, 2 ** 21, 0),
      client.pwrite(bytes, 2 ** 21, 2 ** 20, 2 ** 21),
      ...Array.from({ length: 100 }, (_, index) =>
        client.pwrite(bytes, index, 100, 3 * 2 ** 20 + 100 * index),
      ),
    ])
    await client.pread(read, 0, read.length, 0)
    expect(read.equals(bytes)).toBe(true)
    const small = Array.from({ length: 100 }, async (_, index) => {
      const piece = Buffer.alloc(100)
      await client.pread(piece, 0, 100, 3 * 2 ** 20 + 100 * index)
      return piece.equals(bytes.subarray(index, index + 100))
    })
    expect((await Promise.all(small)).every(Boolean)).toBe(true)
    await client.flush()
    await client.close()
    expect(await listExports(uri)).toHaveLength(1)
    expect((await probe(uri)).size).toBe(2 ** 22)
  })

  test('qemu-nbd is written and read', async context => {
    needPrograms(context, 'qemu-nbd')
    const folder = makeFolder()
    const port = await freePort()
    const image = join(folder, 'disk')
    writeFileSync(image, Buffer.alloc(2 ** 20))
    const pidFile = join(folder, 'pid')
    const credentials = `tls-creds-x509,id=tls0,endpoint=server,dir=${pki.server},verify-peer=on`
    await startServer(
      'qemu-nbd',
      [
        '-t',
        '-f',
        'raw',
        '-b',
        '127.0.0.1',
        '-p',
        String(port),
        `--pid-file=${pidFile}`,
        '--object',
        credentials,
        '--tls-creds',
        'tls0',
        image,
      ],
      fileAppears(pidFile),
    )
    const client = await connect(`nbds://127.0.0.1:${port}/?${x509(pki.client)}`)
    const bytes = randomBytes(70_000)
    await client.pwrite(bytes, 0, 70_000, 1)
    const read = Buffer.alloc(70_000)
    await client.pread(read, 0, 70_000, 1)
    expect(read.equals(bytes)).toBe(true)
    await client.close()
  })

  test('a connection that is lost is made again', async context => {
    needPrograms(context, 'nbdkit')
    const port = await freePort()
    const options = ['--tls=require', `--tls-certificates=${pki.server}`, 'memory', '1M']
    const first = await startNbdkit(makeFolder(), port, ...options)
    const client = await connectReconnecting(`nbds://localhost:${port}/?${x509(pki.caOnly)}`)
    await first.kill()
    const read = client.pread(Buffer.alloc(512), 0, 512, 0)
    await startNbdkit(makeFolder(), port, ...options)
    await read
    await client.close()
  })

  test('a unix socket has the name localhost, or the one that is told', async context => {
    needPrograms(context, 'nbdkit')
    const socket = join(makeFolder(), 's')
    await startNbdkit(
      makeFolder(),
      socket,
      '--tls=require',
      `--tls-certificates=${pki.server}`,
      'memory',
      '1M',
    )
    const uri = `nbds+unix:///?socket=${socket}&${x509(pki.caOnly)}`
    await (await connect(uri)).close()
    await expect(connect(`${uri}&tls-hostname=other.example`)).rejects.toThrow(TlsError)
  })

  test.for<[string, () => string, () => string, RegExp]>([
    ['by an unknown authority', () => pki.server, () => `localhost/?${x509(pki.foreign)}`, /certificate/],
    ['by no authority that the system knows', () => pki.server, () => 'localhost/', /certificate/],
    ['for another host', () => pki.elsewhere, () => `localhost/?${x509(pki.caOnly)}`, /localhost/],
    [
      'for another host than is told',
      () => pki.server,
      () => `localhost/?${x509(pki.caOnly)}&tls-hostname=x.example`,
      /x\.example/,
    ],
    ['for another address', () => pki.elsewhere, () => `127.0.0.1/?${x509(pki.caOnly)}`, /127\.0\.0\.1/],
    ['that has expired', () => pki.expired, () => `localhost/?${x509(pki.caOnly)}`, /expired/],
  ])('a server with a certificate %s is refused', async ([, server, place, reason], context) => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${server()}`)
    const uri = `nbds://${place().replace('/', `:${port}/`)}`
    for (const attempt of [connect, listExports, probe]) {
      const error = await attempt(uri).catch((thrown: unknown) => thrown)
      expect(error).toBeInstanceOf(TlsError)
      expect(String(error)).toMatch(reason)
    }
  })

  test('a server is believed without looking where that is asked for, or under the name that is told', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${pki.elsewhere}`)
    await (await connect(`nbds://127.0.0.1:${port}/?tls-verify-peer=0`)).close()
    await (await connect(`nbds://127.0.0.1:${port}/?${x509(pki.caOnly)}&tls-hostname=other.example`)).close()
  })

  test('a server that wants one of us does not get around it', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${pki.server}`, '--tls-verify-peer')
    await expect(connect(`nbds://localhost:${port}/?${x509(pki.caOnly)}`)).rejects.toThrow()
  })
})

describe('With shared keys', () => {
  const uri = (port: number, more = '') => `nbds://alice@127.0.0.1:${port}/?tls-psk-file=${pki.psk}${more}`

  test('nbdkit is written and read', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-psk=${pki.psk}`)
    for (const place of [uri(port), `nbds://127.0.0.1:${port}/?tls-psk-file=${pki.psk}&tls-username=bob`]) {
      const client = await connect(place)
      const bytes = randomBytes(100_000)
      await client.pwrite(bytes, 0, 100_000, 0)
      const read = Buffer.alloc(100_000)
      await client.pread(read, 0, 100_000, 0)
      expect(read.equals(bytes)).toBe(true)
      await client.close()
    }
  })

  test('a server with other keys is refused', async context => {
    needPrograms(context, 'nbdkit')
    const keys = join(makeFolder(), 'keys.psk')
    writeFileSync(keys, `alice:${OTHER_KEY}\n`)
    const port = await nbdkit('--tls=require', `--tls-psk=${keys}`)
    await expect(connect(uri(port))).rejects.toThrow(TlsError)
  })

  test('a server with certificates instead is refused, whoever signed them', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${pki.server}`)
    await expect(connect(uri(port))).rejects.toThrow(TlsError)
  })

  test.for<[string, string]>([
    ['a user without a key', 'tls-username=carol'],
    ['a key that is none', 'tls-username=broken'],
  ])('%s is an error before anything is sent', async ([, user]) => {
    await expect(connect(`nbds://localhost:1/?tls-psk-file=${pki.psk}&${user}`)).rejects.toThrow(TlsError)
  })
})

describe('What cannot be read is an error before anything is sent', () => {
  test.for<[string, (folder: string) => string]>([
    ['no folder', () => x509('/nowhere')],
    ['no ca-cert.pem', folder => x509(folder)],
    ['no file of keys', () => 'tls-psk-file=/nowhere'],
    [
      'a key without its certificate',
      folder => {
        writeFileSync(join(folder, 'ca-cert.pem'), 'x')
        writeFileSync(join(folder, 'client-key.pem'), 'x')
        return x509(folder)
      },
    ],
  ])('%s', async ([, parameter]) => {
    const uri = `nbds://localhost:1/?${parameter(makeFolder())}`
    await expect(connect(uri)).rejects.toThrow(TlsError)
    await expect(connect(uri)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

describe('Without TLS', () => {
  test('a server that requires it says so', async context => {
    needPrograms(context, 'nbdkit')
    const port = await nbdkit('--tls=require', `--tls-certificates=${pki.server}`)
    await expect(connect(`nbd://localhost:${port}`)).rejects.toThrow(RefusedError)
    await expect(connect(`nbd://localhost:${port}`)).rejects.toThrow(/nbds/)
  })

  test('a server is not used where TLS is required (CVE-2019-14842)', async context => {
    needPrograms(context, 'nbdkit')
    for (const args of [['--tls=off'], ['-o'], ['--mask-handshake=0']]) {
      const port = await nbdkit(...args)
      await expect(connect(`nbds://localhost:${port}/?${x509(pki.caOnly)}`)).rejects.toThrow(/TLS|refused/)
    }
  })
})

test('Bytes in the clear behind the agreement to TLS end the connection', async () => {
  const injected = Buffer.concat([encodeOptionReply(11, 1), encodeOptionReply(10, 1)])
  const together = Buffer.concat([encodeGreeting(), encodeOptionReply(5, 1), injected])
  const server = await scripted(socket => socket.write(together))
  const uri = `nbds://localhost:${server.port}/?${x509(pki.caOnly)}`
  await expect(connect(uri)).rejects.toThrow(/clear/)
  // The same in two packets: there they are no TLS.
  const later = await scripted(socket => {
    socket.write(Buffer.concat([encodeGreeting(), encodeOptionReply(5, 1)]))
    setTimeout(() => socket.write(injected), 50)
  })
  await expect(connect(`nbds://localhost:${later.port}/?${x509(pki.caOnly)}`)).rejects.toThrow(TlsError)
})

test('A server that agrees to TLS and then keeps silent, or hangs up, has its time', async () => {
  const agreed = Buffer.concat([encodeGreeting(), encodeOptionReply(5, 1)])
  const silent = await scripted(socket => socket.write(agreed))
  const limits = { handshakeTimeout: 200 }
  const uri = (port: number) => `nbds://localhost:${port}/?${x509(pki.caOnly)}`
  await expect(connect(uri(silent.port), limits)).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  const hasty = await scripted(socket => socket.end(agreed))
  await expect(connect(uri(hasty.port), limits)).rejects.toThrow(TlsError)
})

test.for([
  ['TLSv1.1', 'ERR_SSL_UNSUPPORTED_PROTOCOL', TlsError],
  // The same server can be talked to, as far as TLS goes.
  ['TLSv1.2', undefined, ConnectionError],
] as const)('A server that speaks %s at most', async ([maxVersion, refusal, error]) => {
  const [cert, key] = ['cert', 'key'].map(what => readFileSync(join(pki.server, `server-${what}.pem`)))
  const tls = createServer({ minVersion: 'TLSv1', maxVersion, ciphers: 'ALL:@SECLEVEL=0', cert, key })
  let refused: string | undefined
  let secured = 0
  tls.on('tlsClientError', (reason: NodeJS.ErrnoException) => {
    refused ??= reason.code
  })
  tls.on('secureConnection', () => secured++)
  const port = await freePort()
  await new Promise<void>(resolve => tls.listen(port, '127.0.0.1', resolve))
  onTestFinished(() => {
    tls.close()
  })
  const server = await scripted(socket => {
    socket.write(Buffer.concat([encodeGreeting(), encodeOptionReply(5, 1)]))
    const inner = connectSocket(port, '127.0.0.1').on('error', () => undefined)
    inner.pipe(socket)
    // The client's flags and STARTTLS are not for there.
    let skip = 20
    socket.on('data', (bytes: Buffer) => {
      inner.write(bytes.subarray(skip))
      skip -= Math.min(skip, bytes.length)
    })
  })
  const uri = `nbds://localhost:${server.port}/?${x509(pki.caOnly)}`
  await expect(connect(uri, { handshakeTimeout: 500 })).rejects.toThrow(error)
  expect([refused, secured]).toEqual([refusal, refusal === undefined ? 1 : 0])
})
