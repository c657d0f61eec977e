/** TLS with foreign clients, which bring TLS libraries of their own. */
import { X509Certificate } from 'node:crypto'
import { copyFile, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  check,
  checkout,
  needPrograms,
  run,
  type Scratch,
  type ServerOptions,
  type ServerProcess,
  scratch,
  startServer,
} from './harness.ts'
import { needLibnbd, PYTHON } from './libnbd.ts'

const MIB = 2 ** 20
const SIZE = 24 * MIB + 512
const BLANK = ['--size', String(SIZE), '--command', 'truncate -s "$size" "$disk"']

/** Made by hack/test-certificates. */
let certificates: Scratch

beforeAll(async () => {
  certificates = await scratch()
  await check(join(checkout, 'hack/test-certificates'), [certificates.path])
})

afterAll(() => certificates[Symbol.asyncDispose]())

const file = (name: string) => join(certificates.path, name)
const CERTIFICATE = () => [
  '--tls-cert',
  file('server/server-cert.pem'),
  '--tls-key',
  file('server/server-key.pem'),
]
const AUTHORITY = () => ['--tls-client-ca', file('authority/ca-cert.pem')]
const KEYS = () => ['--tls-psk', file('keys.psk')]

/** A server and its directory of disks. */
interface Served extends AsyncDisposable {
  readonly server: ServerProcess
  readonly path: string
}

async function serve(args: readonly string[], options?: ServerOptions): Promise<Served> {
  const dir = await scratch()
  const server = await startServer(['--dir', dir.path, ...args], options)
  return {
    server,
    path: dir.path,
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]()
      await dir[Symbol.asyncDispose]()
    },
  }
}

/** URI of a disk for clients made with libnbd, who show what is in a folder of the certificates. */
const byCertificate = ({ port }: ServerProcess, disk: string, who: string) =>
  `nbds://localhost:${port}/${disk}?tls-certificates=${file(who)}`

/** The same for those who know a key. */
const byKey = ({ port }: ServerProcess, disk: string, keys: string, user: string) =>
  `nbds://${user}@localhost:${port}/${disk}?tls-psk-file=${file(keys)}`

/** Reasons in the log of why clients were not served. */
const refusals = (server: ServerProcess): string[] =>
  server
    .log()
    .split('\n')
    .filter(line => /"(Handshake failed|Export refused)"/.test(line))
    .map(line => String((JSON.parse(line) as { reason?: unknown }).reason))

describe('A server that requires certificates', () => {
  let served: Served
  let server: ServerProcess

  beforeAll(async () => {
    served = await serve([
      '--tls',
      'require',
      ...CERTIFICATE(),
      ...AUTHORITY(),
      '--connections-per-disk',
      '4',
      ...BLANK,
    ])
    server = served.server
  })

  afterAll(async () => {
    expect(await server.stop()).toBe(0)
    await served[Symbol.asyncDispose]()
  })

  test('serves nbdinfo, and lists disks to it', async context => {
    await needPrograms(context, 'nbdinfo')
    const info = await check('nbdinfo', [byCertificate(server, 'info', 'alice')])
    expect(info).toContain('protocol: newstyle-fixed with TLS')
    expect(await check('nbdinfo', ['--list', byCertificate(server, '', 'alice')])).toContain('export="info"')
  })

  test('serves nbdcopy with four connections, there and back', async context => {
    await needPrograms(context, 'nbdcopy', 'cmp')
    await using folder = await scratch()
    const [image, back] = [join(folder.path, 'image'), join(folder.path, 'back')]
    await check('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', 'count=24'])
    await check('nbdcopy', ['--connections=4', image, byCertificate(server, 'copy', 'alice')])
    await check('nbdcopy', ['--connections=4', byCertificate(server, 'copy', 'alice'), back])
    await check('cmp', ['-n', String(24 * MIB), image, back])
    await check('cmp', ['-n', String(24 * MIB), image, join(served.path, 'copy')])
  })

  test('serves qemu-img and qemu-io', async context => {
    await needPrograms(context, 'qemu-img', 'qemu-io')
    const credentials = ['--object', `tls-creds-x509,id=tls,endpoint=client,dir=${file('alice')}`]
    const disk = `driver=nbd,host=localhost,port=${server.port},export=qemu,tls-creds=tls`
    const commands = [
      'write -P 0x5a 3k 9M',
      'read -P 0x5a 3k 9M',
      'read -P 0 0 3k',
      'write -z 4M 1M',
      'flush',
    ]
    const each = commands.flatMap(command => ['-c', command])
    await check('qemu-io', [...credentials, '--image-opts', ...each, disk])
    const info = await check('qemu-img', ['info', ...credentials, '--image-opts', disk])
    expect(info).toContain('virtual size: 24 MiB')
    const stored = await readFile(join(served.path, 'qemu'))
    expect(stored.subarray(3072, 4 * MIB).every(byte => byte === 0x5a)).toBe(true)
    expect(stored.subarray(4 * MIB, 5 * MIB).every(byte => byte === 0)).toBe(true)
  })

  test.for<[string, (server: ServerProcess) => string, RegExp]>([
    ['a client in plain text', server => server.uri('refused'), /^This server requires TLS\.$/],
    [
      'a client without a certificate',
      server => byCertificate(server, 'refused', 'nobody'),
      /^The client showed no certificate and proved no key\.$/,
    ],
    // GnuTLS keeps a certificate to itself whose authority the server does not name.
    [
      'a client with the certificate of another authority',
      server => byCertificate(server, 'refused', 'stranger'),
      /^The client showed no certificate|^The client's certificate is not accepted/,
    ],
    [
      'a client whose certificate has expired',
      server => byCertificate(server, 'refused', 'expired'),
      /^The client's certificate is not accepted: CERT_HAS_EXPIRED\.$/,
    ],
    ['a client with a key', server => byKey(server, 'refused', 'keys.psk', 'alice'), /^TLS failed: /],
  ])('refuses %s, says why in its log, and makes nothing', async ([, uri, reason], context) => {
    await needPrograms(context, 'nbdinfo')
    const before = refusals(server).length
    const { status, stderr } = await run('nbdinfo', [uri(server)])
    expect(status, stderr).not.toBe(0)
    await expect.poll(() => refusals(server).length).toBeGreaterThan(before)
    expect(refusals(server)[before]).toMatch(reason)
    expect(await readdir(served.path)).not.toContain('refused')
  })
})

describe('A server with pre-shared keys', () => {
  test('serves libnbd and qemu that know one, and refuses the others with their reasons', async context => {
    await needPrograms(context, 'nbdinfo', 'nbdcopy', 'qemu-io')
    await using served = await serve(['--tls', 'require', ...KEYS(), ...BLANK])
    const { server } = served
    const uri = byKey(server, 'disk', 'keys.psk', 'alice')
    expect(await check('nbdinfo', [uri])).toContain('with TLS')
    await using folder = await scratch()
    await check('dd', ['if=/dev/urandom', `of=${folder.path}/image`, 'bs=1M', 'count=24'])
    await check('nbdcopy', [join(folder.path, 'image'), uri])
    await check('cmp', ['-n', String(24 * MIB), join(folder.path, 'image'), join(served.path, 'disk')])

    const credentials = [
      '--object',
      `tls-creds-psk,id=tls,endpoint=client,username=alice,dir=${certificates.path}`,
    ]
    const disk = `driver=nbd,host=localhost,port=${server.port},export=qemu,tls-creds=tls`
    await check('qemu-io', [
      ...credentials,
      '--image-opts',
      '-c',
      'write -P 7 0 1M',
      '-c',
      'read -P 7 0 1M',
      disk,
    ])

    const reasons: RegExp[] = []
    for (const [keys, user, reason] of [
      ['wrong.psk', 'alice', /the client calls itself "alice"/],
      ['unknown.psk', 'mallory', /the client calls itself "mallory"/],
    ] as const) {
      expect((await run('nbdinfo', [byKey(server, 'refused', keys, user)])).status).not.toBe(0)
      reasons.push(reason)
    }
    expect((await run('nbdinfo', [server.uri('refused')])).status).not.toBe(0)
    reasons.push(/requires TLS/)
    for (const reason of reasons) {
      await expect.poll(() => refusals(server)).toContainEqual(expect.stringMatching(reason))
    }
    expect(await readdir(served.path)).not.toContain('refused')
    expect(await server.stop()).toBe(0)
  })
})

describe('A server that offers TLS', () => {
  test('serves clients with and without it', async context => {
    await needPrograms(context, 'nbdinfo')
    await using served = await serve(['--tls', 'on', ...CERTIFICATE(), ...BLANK])
    const { server } = served
    expect(await check('nbdinfo', [server.uri('plain')])).toContain('without TLS')
    expect(await check('nbdinfo', [byCertificate(server, 'secure', 'nobody')])).toContain('with TLS')
    expect(await server.stop()).toBe(0)
  })

  test('asks those for it whom only a certificate can admit to a disk', async context => {
    await needPrograms(context, 'nbdinfo')
    await using manifests = await scratch()
    const manifest = {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: { name: 'hers' },
      spec: { size: '1Mi', command: 'truncate -s "$size" "$disk"', access: { allow: ['dn:CN=alice,O=lab'] } },
    }
    await writeFile(join(manifests.path, 'hers.json'), JSON.stringify(manifest))
    await using served = await serve([
      '--tls',
      'on',
      ...CERTIFICATE(),
      ...AUTHORITY(),
      '--disks',
      manifests.path,
    ])
    const { server } = served
    expect(await check('nbdinfo', [byCertificate(server, 'hers', 'alice')])).toContain('with TLS')
    for (const [uri, message] of [
      [byCertificate(server, 'hers', 'bob'), /not allowed/],
      [server.uri('hers'), /TLS/],
      [byCertificate(server, 'hers', 'imposter'), /not allowed/],
    ] as const) {
      expect((await run('nbdinfo', [uri])).status).not.toBe(0)
      await expect.poll(() => refusals(server).at(-1)).toMatch(message)
    }
    expect(await check('nbdinfo', ['--list', byCertificate(server, '', 'alice')])).toContain('"hers"')
    expect((await run('nbdinfo', ['--list', byCertificate(server, '', 'bob')])).stdout).not.toContain('hers')
    expect(await server.stop()).toBe(0)
  })

  test('admits by its own rules about certificates', async context => {
    await needPrograms(context, 'nbdinfo')
    const rules = ['--allow', 'dn:*,O=lab', '--deny', 'dn:CN=bob,*']
    await using served = await serve(['--tls', 'on', ...CERTIFICATE(), ...AUTHORITY(), ...rules, ...BLANK])
    const { server } = served
    await check('nbdinfo', [byCertificate(server, 'disk', 'alice')])
    for (const who of ['bob', 'imposter']) {
      expect((await run('nbdinfo', [byCertificate(server, 'disk', who)])).status).not.toBe(0)
    }
    expect((await run('nbdinfo', [server.uri('disk')])).status).not.toBe(0)
    // Each is told twice, since nbdinfo also asks for metadata contexts.
    await expect
      .poll(() => [...new Set(refusals(server))])
      .toEqual([
        'You are not allowed to use disk.',
        'Using disk needs TLS and a certificate that its rules admit.',
      ])
    expect(await server.stop()).toBe(0)
  })
})

test('New credentials are used, bad ones are not, and nobody is disconnected', async context => {
  await needLibnbd(context)
  await needPrograms(context, 'openssl', 'nbdinfo')
  await using folder = await scratch()
  const own = join(folder.path, 'tls')
  await mkdir(own)
  const put = async (from: string, to: string) => {
    await copyFile(from, join(own, `.${to}`))
    await rename(join(own, `.${to}`), join(own, to))
  }
  const putBoth = async (who: string) => {
    await put(file(`${who}/server-key.pem`), 'key')
    await put(file(`${who}/server-cert.pem`), 'cert')
  }
  await putBoth('server')
  const options = ['--tls', 'require', '--tls-cert', join(own, 'cert'), '--tls-key', join(own, 'key')]
  await using served = await serve([...options, ...BLANK])
  const { server } = served
  // Holds a connection from before all changes, and writes to it when asked for.
  const holder = `
import nbd, sys, time, os
h = nbd.NBD(); h.set_uri_allow_local_file(True); h.connect_uri(sys.argv[1])
print("connected", flush=True)
while not os.path.exists(sys.argv[2]):
    h.pwrite(b"still here" + bytes(502), 0)
    time.sleep(0.05)
h.flush(); h.shutdown()`
  let connected = () => {}
  const ready = new Promise<void>(resolve => {
    connected = resolve
  })
  const end = join(folder.path, 'end')
  const args = ['-c', holder, byCertificate(server, 'held', 'nobody'), end]
  const held = check(PYTHON, args, { onLine: () => connected() })
  await Promise.race([ready, held])

  /** Serial number of the certificate that a new client is shown, after its NBD client has asked for TLS. */
  const serial = async () => {
    const script = `
import socket, ssl, struct, sys
s = socket.create_connection(("localhost", int(sys.argv[1])))
s.recv(18, socket.MSG_WAITALL)
s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 5, 0))
s.recv(20, socket.MSG_WAITALL)
c = ssl.create_default_context(cafile=sys.argv[2])
print(ssl.DER_cert_to_PEM_cert(c.wrap_socket(s, server_hostname="localhost").getpeercert(True)))`
    const pem = await check(PYTHON, ['-c', script, String(server.port), file('authority/ca-cert.pem')])
    return new X509Certificate(pem).serialNumber
  }
  const before = await serial()
  await putBoth('renewed')
  await expect.poll(serial, { timeout: 8000, interval: 300 }).not.toBe(before)
  const renewed = await serial()
  expect(server.log()).toContain('New TLS credentials are in use')
  await writeFile(join(own, 'cert'), 'garbage')
  await expect.poll(server.log, { timeout: 8000 }).toContain('New TLS credentials cannot be used')
  expect(await serial()).toBe(renewed)
  await writeFile(end, '')
  await held
  expect((await readFile(join(served.path, 'held'))).subarray(0, 10).toString()).toBe('still here')
  expect(await server.stop()).toBe(0)
})

describe('Bad options', () => {
  test.for<[string, () => string[], RegExp]>([
    [
      'a missing file',
      () => ['--tls', 'on', '--tls-psk', '/nowhere'],
      /--tls-psk: \/nowhere cannot be read \(ENOENT\)/,
    ],
    [
      'a key of another certificate',
      () => [
        '--tls',
        'on',
        '--tls-cert',
        file('server/server-cert.pem'),
        '--tls-key',
        file('renewed/server-key.pem'),
      ],
      /--tls-cert .* and --tls-key .* cannot be used: /,
    ],
    [
      'authorities that are none',
      () => ['--tls', 'on', ...CERTIFICATE(), '--tls-client-ca', file('server/server-key.pem')],
      /--tls-client-ca: .* holds something that is no certificate/,
    ],
  ])('%s: the server does not start, and makes nothing', async ([, options, message]) => {
    await using dir = await scratch()
    const args = ['serve', '--dir', dir.path, '--listen', '127.0.0.1:0', ...options(), ...BLANK]
    const { status, stderr } = await run(join(checkout, 'hack/ondemand-disk'), args)
    expect(status).toBe(1)
    expect(stderr.trimEnd().split('\n').at(-1)).toMatch(message)
    expect(await readdir(dir.path)).toEqual([])
  })
})
