/** Who the server is in TLS, and who clients have to prove to be. */
import { copyFileSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { ask, ERR, errorOf, GO, goPayload, INFO, outcome, readSimple, request, write } from './test-client.ts'
import { allGone } from './test-server.ts'
import {
  certificateFile,
  knowing,
  makeCertificates,
  type Participant,
  refusalOf,
  type SecureClient,
  serverFiles,
  serveTls,
  showing,
  TLS_REQD,
  type TlsTestServer,
  withClientCa,
  withKeys,
} from './test-tls.ts'
import { openTls, parsePskFile, type TlsFiles } from './tls.ts'

makeCertificates()

const LIST = 3
const open = async (client: SecureClient, name = 'alice') => outcome(client, GO, goPayload(name))

/** Why the server hangs up on a client that thinks that its TLS handshake has succeeded. */
async function reasonFor(client: SecureClient, server: TlsTestServer): Promise<string> {
  client.tls.on('error', () => {})
  expect(await client.rest()).toHaveLength(0)
  return refusalOf(server)
}

/** Why the server refuses such a client; with TLS 1.3 that learns of it after its handshake only. */
async function refused(server: TlsTestServer, options: ConnectionOptions): Promise<string> {
  const client = await server.secured(options).catch(() => undefined)
  const reason = client === undefined ? await refusalOf(server) : await reasonFor(client, server)
  await allGone(server)
  return reason
}

describe('Versions', () => {
  test.for(['TLSv1.2', 'TLSv1.3'] as const)('%s is spoken', async version => {
    const server = await serveTls()
    const client = await server.secured({ minVersion: version, maxVersion: version })
    expect(client.tls.getProtocol()).toBe(version)
    expect((await open(client)).error).toBeUndefined()
  })

  test.for(['TLSv1', 'TLSv1.1'] as const)('%s is refused', async version => {
    const server = await serveTls()
    const old = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
    expect(await refused(server, old)).toBe('TLS failed: unsupported protocol.')
  })
})

describe('A server that has only a certificate', () => {
  test('serves whoever asks', async () => {
    const server = await serveTls()
    expect((await open(await server.secured())).error).toBeUndefined()
  })

  test('tells the log of clients that do not trust it', async () => {
    const server = await serveTls()
    const ca = readFileSync(certificateFile('other/ca-cert.pem'))
    await expect(server.secured({ ca })).rejects.toThrow()
    expect(await refusalOf(server)).toMatch(/unknown ca|left during/)
    await allGone(server)
  })
})

describe('A server with authorities for clients', () => {
  test.for(['TLSv1.2', 'TLSv1.3'] as const)('serves whom they know (%s)', async maxVersion => {
    const server = await serveTls({ files: withClientCa() })
    const client = await server.secured({ ...showing('alice'), maxVersion })
    expect((await open(client)).error).toBeUndefined()
    const established = server.log.find(({ message }) => message === 'TLS established')
    expect(established?.fields.subject).toBe('CN=alice,O=lab')
  })

  const proofs: [string, () => ConnectionOptions, RegExp][] = [
    ['shows no certificate', () => ({}), /^The client showed no certificate and proved no key\.$/],
    ['shows one of another authority', () => showing('stranger'), /not accepted: .*(ISSUER|VERIFY_LEAF)/],
    ['shows one that has expired', () => showing('expired'), /not accepted: CERT_HAS_EXPIRED\.$/],
  ]
  const cases = proofs.flatMap(([what, proof, reason]) =>
    (['TLSv1.2', 'TLSv1.3'] as const).map(version => ({ what, proof, reason, version })),
  )
  test.for(cases)(
    'refuses a client that $what ($version), and says why',
    async ({ proof, reason, version }) => {
      const server = await serveTls({ files: withClientCa() })
      expect(await refused(server, { ...proof(), minVersion: version, maxVersion: version })).toMatch(reason)
    },
  )

  test.for(['TLSv1.2', 'TLSv1.3'] as const)(
    'is not talked into an earlier session, by which a client without certificate could come in (%s)',
    async version => {
      const versions = { minVersion: version, maxVersion: version }
      const server = await serveTls({ files: withClientCa() })
      const first = await server.secured({ ...showing('alice'), ...versions })
      const session = new Promise<Buffer>(resolve => first.tls.once('session', resolve))
      expect((await open(first)).error).toBeUndefined()
      first.send(request(2))
      await first.over
      first.tls.destroy()
      const known = await Promise.race([session, first.tls.getSession()])
      expect(await refused(server, { session: known as Buffer, ...versions })).toMatch(
        /showed no certificate/,
      )
    },
  )
})

describe('A server with pre-shared keys', () => {
  const gnutls = 'ECDHE-PSK-AES256-CBC-SHA384'
  test.for([
    ['TLSv1.3', {}],
    ['TLSv1.2', { ciphers: gnutls }],
    ['TLSv1.2', { ciphers: 'ECDHE-PSK-CHACHA20-POLY1305' }],
  ] as const)('serves those who know one (%s, %o)', async ([version, options]) => {
    const server = await serveTls({ files: withKeys() })
    const client = await server.secured(knowing('keys.psk', { ...options, maxVersion: version }))
    expect(client.tls.getProtocol()).toBe(version)
    expect(await open(client)).toMatchObject({ error: undefined })
    expect(await errorOf(client, write(Buffer.from('secret')))).toBe(0)
    expect((await readSimple(client, 0, 6)).toString()).toBe('secret')
  })

  test.for([
    ['another key under a good name', 'wrong.psk', /\(the client calls itself "alice"\)\.$/],
    ['a name that nobody knows', 'unknown.psk', /\(the client calls itself "mallory"\)\.$/],
  ] as const)('refuses %s, and says so', async ([, file, reason]) => {
    for (const options of [{}, { maxVersion: 'TLSv1.2', ciphers: gnutls }] as const) {
      const server = await serveTls({ files: withKeys() })
      expect(await refused(server, knowing(file, options))).toMatch(reason)
    }
  })

  test('refuses a client without a key', async () => {
    const server = await serveTls({ files: withKeys() })
    expect(await refused(server, {})).toMatch(/^TLS failed: /)
  })

  test('refuses a client without a key also where it has a certificate to show itself', async () => {
    const server = await serveTls({ files: withKeys(serverFiles()) })
    expect(await refused(server, {})).toBe('The client showed no certificate and proved no key.')
  })

  test('refuses a client that names a key and does not use it', async () => {
    const server = await serveTls({ files: withKeys(serverFiles()) })
    // A pre-shared key goes with SHA-256; with this suite OpenSSL falls back to the server's certificate.
    const options = knowing('keys.psk', { ciphers: 'TLS_AES_256_GCM_SHA384', minVersion: 'TLSv1.3' })
    expect(await refused(server, options)).toBe(
      'The client showed no certificate and proved no key, though it called itself "alice".',
    )
  })

  test('and authorities for clients takes either proof', async () => {
    const files = { ...withClientCa(), psk: certificateFile('keys.psk') }
    const server = await serveTls({ files })
    expect((await open(await server.secured(showing('bob')), 'one')).error).toBeUndefined()
    expect((await open(await server.secured(knowing('keys.psk')), 'two')).error).toBeUndefined()
    expect(await reasonFor(await server.secured(showing('stranger')), server)).toMatch(/not accepted/)
  })
})

describe('Rules about certificates', () => {
  const as = (server: TlsTestServer, who: Participant) => server.secured(showing(who))

  test('admit whom they name, and nobody else', async () => {
    const server = await serveTls({ files: withClientCa(), allow: ['dn:CN=alice,O=lab'] })
    expect((await open(await as(server, 'alice'))).error).toBeUndefined()
    for (const who of ['bob', 'imposter'] as const) {
      const other = await as(server, who)
      expect((await open(other)).error).toBe(ERR.POLICY)
      expect((await outcome(other, INFO, goPayload('alice'))).error).toBe(ERR.POLICY)
      expect(await ask(other, LIST)).toHaveLength(1)
    }
  })

  test('refuse whom they name', async () => {
    const server = await serveTls({ files: withClientCa(), deny: ['dn:CN=bob,*'] })
    expect((await open(await as(server, 'bob'))).error).toBe(ERR.POLICY)
    expect((await open(await as(server, 'alice'))).error).toBeUndefined()
  })

  test('ask a client in plain text for TLS, and list nothing to it', async () => {
    const server = await serveTls({ files: withClientCa(), allow: ['dn:CN=alice,*'] })
    const client = await server.greeted()
    expect((await outcome(client, GO, goPayload('alice'))).error).toBe(TLS_REQD)
    expect((await outcome(client, INFO, goPayload('alice'))).error).toBe(TLS_REQD)
    expect(await ask(client, LIST)).toHaveLength(1)
  })

  test('never answer TLS_REQD to a client that has TLS', async () => {
    const server = await serveTls({ files: withKeys(serverFiles()), allow: ['dn:CN=alice,*'] })
    const client = await server.secured(knowing('keys.psk'))
    expect((await open(client)).error).toBe(ERR.POLICY)
  })

  test('are not taken in by a name that holds a comma', async () => {
    const server = await serveTls({ files: withClientCa(), allow: ['dn:*,O=lab'] })
    expect((await open(await as(server, 'alice'))).error).toBeUndefined()
    expect((await open(await as(server, 'imposter'))).error).toBe(ERR.POLICY)
    const subjects = server.log.filter(({ message }) => message === 'TLS established')
    expect(subjects.at(-1)?.fields.subject).toBe('CN=eve\\2CO=lab')
  })

  test('let a client in plain text only as far as to ask for TLS', async () => {
    const server = await serveTls({ files: withClientCa(), allow: ['10.0.0.0/8', 'dn:CN=alice,*'] })
    expect((await open(await as(server, 'alice'))).error).toBeUndefined()
    expect((await open(await as(server, 'bob'))).error).toBe(ERR.POLICY)
  })

  test('do not get a client in whose address is denied', async () => {
    const server = await serveTls({ files: withClientCa(), allow: ['dn:CN=alice,*'], deny: ['127.0.0.0/8'] })
    const client = await server.connect()
    expect(await client.rest()).toHaveLength(0)
  })
})

describe('Credentials that have changed', () => {
  /** Files that can be changed. */
  function changeable(files: TlsFiles): TlsFiles & { cert: string; key: string } {
    const folder = makeDirectory()
    const copies = Object.entries(files).map(([name, path]) => {
      if (path === undefined) return [name, undefined]
      copyFileSync(path, join(folder, name))
      return [name, join(folder, name)]
    })
    return Object.fromEntries(copies)
  }

  /** Replaces a file as a program does that means well. */
  function replace(path: string, by: string): void {
    copyFileSync(certificateFile(by), `${path}.new`)
    renameSync(`${path}.new`, path)
  }

  const serialOf = (client: SecureClient) => client.tls.getPeerX509Certificate()?.serialNumber

  test('are shown to new clients, while old ones stay', async () => {
    const files = changeable(serverFiles())
    const server = await serveTls({ files })
    const old = await server.secured()
    await open(old)
    const before = serialOf(old)
    replace(files.key, 'renewed/server-key.pem')
    replace(files.cert, 'renewed/server-cert.pem')
    await vi.waitFor(() => expect(server.reloads).toContain('reloaded'), { timeout: 3000 })
    await vi.waitFor(async () => expect(serialOf(await server.secured())).not.toBe(before))
    expect(await errorOf(old, write(Buffer.from('still here')))).toBe(0)
    expect(server.server.connections).toBeGreaterThan(1)
  })

  test.for<[string, (files: { cert: string; key: string }) => void, RegExp]>([
    ['are gone', ({ cert }) => rmSync(cert), /--tls-cert: .* cannot be read \(ENOENT\)/],
    ['are garbage', ({ cert }) => writeFileSync(cert, 'garbage'), /--tls-cert .* cannot be used: /],
    ['are empty', ({ key }) => writeFileSync(key, ''), /--tls-key .* cannot be used: /],
    [
      'do not belong together',
      ({ cert }) => replace(cert, 'renewed/server-cert.pem'),
      /--tls-cert .* and --tls-key .* cannot be used: .*mismatch/,
    ],
  ])('and that %s are reported once, and the old ones stay', async ([, spoil, reason]) => {
    const files = changeable(serverFiles())
    const server = await serveTls({ files })
    const serial = serialOf(await server.secured())
    spoil(files)
    await vi.waitFor(() => expect(server.reloads).toHaveLength(1), { timeout: 3000 })
    expect(String(server.reloads[0])).toMatch(reason)
    expect(serialOf(await server.secured())).toBe(serial)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(server.reloads).toHaveLength(1)
    // What is right again is used again.
    replace(files.key, 'renewed/server-key.pem')
    replace(files.cert, 'renewed/server-cert.pem')
    await vi.waitFor(() => expect(server.reloads.at(-1)).toBe('reloaded'), { timeout: 3000 })
    expect(serialOf(await server.secured())).not.toBe(serial)
  })

  test('also in the authorities: who was trusted is so no more', async () => {
    const files = changeable(withClientCa())
    const server = await serveTls({ files })
    const old = await server.secured(showing('alice'))
    await open(old)
    replace(String(files.clientCa), 'other/ca-cert.pem')
    await vi.waitFor(() => expect(server.reloads).toEqual(['reloaded']), { timeout: 3000 })
    expect((await open(await server.secured(showing('stranger')), 'other')).error).toBeUndefined()
    expect(await reasonFor(await server.secured(showing('alice')), server)).toMatch(/not accepted/)
    expect(await errorOf(old, write(Buffer.from('still here')))).toBe(0)
  })

  test('to authorities that cannot be read: the old ones stay, nobody else is let in', async () => {
    const files = changeable(withClientCa())
    const server = await serveTls({ files })
    writeFileSync(String(files.clientCa), '')
    await vi.waitFor(() => expect(server.reloads).toHaveLength(1), { timeout: 3000 })
    expect(String(server.reloads[0])).toMatch(/--tls-client-ca: .* holds no certificate/)
    expect((await open(await server.secured(showing('alice')))).error).toBeUndefined()
    expect(await reasonFor(await server.secured(), server)).toMatch(/showed no certificate/)
  })

  test('in the keys: new ones work, old ones do not, bad ones are not taken', async () => {
    const files = changeable(withKeys())
    const server = await serveTls({ files })
    await open(await server.secured(knowing('keys.psk')), 'one')
    replace(String(files.psk), 'wrong.psk')
    await vi.waitFor(() => expect(server.reloads).toEqual(['reloaded']), { timeout: 3000 })
    await open(await server.secured(knowing('wrong.psk')), 'two')
    await expect(server.secured(knowing('keys.psk'))).rejects.toThrow()
    writeFileSync(String(files.psk), 'alice')
    await vi.waitFor(() => expect(server.reloads).toHaveLength(2), { timeout: 3000 })
    await open(await server.secured(knowing('wrong.psk')), 'three')
  })
})

describe('Credentials that cannot be used', () => {
  const NOTHING: TlsFiles = { cert: undefined, key: undefined, clientCa: undefined, psk: undefined }
  const start = (files: TlsFiles) => openTls(files, { reloaded: () => {}, failed: () => {} })

  function fileWith(content: string): string {
    const path = join(makeDirectory(), 'file')
    writeFileSync(path, content)
    return path
  }

  test.for<[string, () => TlsFiles, RegExp]>([
    [
      'a missing file',
      () => ({ ...serverFiles(), cert: '/nowhere' }),
      /^--tls-cert: \/nowhere cannot be read \(ENOENT\)\.$/,
    ],
    ['a directory', () => ({ ...serverFiles(), key: '/' }), /^--tls-key: \/ cannot be read \(EISDIR\)\.$/],
    [
      'a key of another certificate',
      () => ({ ...serverFiles(), key: certificateFile('renewed/server-key.pem') }),
      /^--tls-cert \S+ and --tls-key \S+ cannot be used: .*mismatch.*\.$/,
    ],
    [
      'a certificate that is none',
      () => ({ ...serverFiles(), cert: fileWith('hello') }),
      /^--tls-cert \S+ and/,
    ],
    [
      'authorities that are none',
      () => ({ ...serverFiles(), clientCa: fileWith('hello') }),
      /^--tls-client-ca: \S+ holds no certificate\.$/,
    ],
    [
      'no authorities',
      () => ({ ...serverFiles(), clientCa: fileWith('') }),
      /^--tls-client-ca: \S+ holds no certificate\.$/,
    ],
    [
      'authorities of which one is broken',
      () => {
        const good = readFileSync(certificateFile('authority/ca-cert.pem'), 'utf8')
        return { ...serverFiles(), clientCa: fileWith(good + good.replace(/\n.{10}/, '\n')) }
      },
      /^--tls-client-ca: \S+ holds something that is no certificate: /,
    ],
    ['no keys', () => ({ ...NOTHING, psk: fileWith('# none\n\n') }), /^--tls-psk: \S+ holds no key\.$/],
    [
      'a bad line among keys',
      () => ({ ...NOTHING, psk: fileWith(`a:${'ab'.repeat(16)}\nb:SECRET\n`) }),
      /^--tls-psk: line 2 of \S+ is not user:hexkey/,
    ],
  ])('are refused at the start: %s', async ([, files, message]) => {
    const error = await start(files()).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(Error)
    expect((error as { code?: string }).code).toBe('ECREDENTIALS')
    expect((error as Error).message).toMatch(message)
    expect((error as Error).message).not.toContain('SECRET')
  })

  test('do not concern an authority that stands behind a description', async () => {
    const good = readFileSync(certificateFile('authority/ca-cert.pem'), 'utf8')
    const clientCa = fileWith(`Subject: CN = authority\n${good}\nand more\n${good}`)
    const server = await serveTls({ files: { ...serverFiles(), clientCa } })
    expect((await open(await server.secured(showing('alice')))).error).toBeUndefined()
  })
})

describe('Files of keys', () => {
  const identity = fc.string({ minLength: 1, maxLength: 30 }).filter(text => /^[^#\s][^\n\r]*$/.test(text))
  const key = fc.uint8Array({ minLength: 16, maxLength: 64 })

  test('give back every name and key that was written, in upper and lower case', () => {
    const entries = fc.uniqueArray(fc.tuple(identity, key, fc.boolean()), {
      minLength: 1,
      selector: ([name]) => name,
    })
    fc.assert(
      fc.property(entries, list => {
        const lines = list.map(([name, bytes, upper]) => {
          const hex = Buffer.from(bytes).toString('hex')
          return `${name}:${upper ? hex.toUpperCase() : hex}\r\n`
        })
        const keys = parsePskFile(lines.join('# comment\n\n'), 'file')
        expect([...keys]).toEqual(list.map(([name, bytes]) => [name, Buffer.from(bytes)]))
      }),
    )
  })

  test.for([
    ['no colon', 'ab'.repeat(16)],
    ['no name', `:${'ab'.repeat(16)}`],
    ['an odd number of digits', `a:${'ab'.repeat(16)}a`],
    ['something that is no digit', `a:${'ab'.repeat(16)}zz`],
    ['15 bytes', `a:${'ab'.repeat(15)}`],
    ['513 bytes', `a:${'ab'.repeat(513)}`],
    ['a name of 129 bytes', `${'é'.repeat(64)}e:${'ab'.repeat(16)}`],
  ])('may not hold a line with %s', ([, line]) => {
    expect(() => parsePskFile(`good:${'ab'.repeat(16)}\n${line}`, 'F')).toThrow(
      'line 2 of F is not user:hexkey',
    )
  })

  test('may not give one name two keys', () => {
    const twice = `a:${'ab'.repeat(16)}\na:${'cd'.repeat(16)}`
    expect(() => parsePskFile(twice, 'F')).toThrow('--tls-psk: line 2 of F gives "a" another key.')
  })

  test('may hold names of 128 bytes and keys of 512, which work', async () => {
    const folder = makeDirectory()
    const psk = join(folder, 'keys')
    writeFileSync(psk, `${'x'.repeat(128)}:${'ab'.repeat(512)}\n`)
    const server = await serveTls({ files: { ...withKeys(), psk } })
    const options = { pskCallback: () => ({ identity: 'x'.repeat(128), psk: Buffer.alloc(512, 0xab) }) }
    const client = await server.secured({ ...options, checkServerIdentity: () => undefined })
    expect((await open(client)).error).toBeUndefined()
  })
})
