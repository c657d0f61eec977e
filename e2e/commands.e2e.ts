/**
 * Every command and flag, by libnbd and qemu, against every kind of backend, in plain text and inside TLS, with
 * every form of replies. The clients of Debian 12 do not speak extended headers: those of sid do (hack/debian-sid).
 */
import { createHash } from 'node:crypto'
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest'
import {
  check,
  checkout,
  needPrograms,
  run,
  type Scratch,
  type ServerProcess,
  scratch,
  startServer,
} from './harness.ts'
import { needLibnbd, PYTHON } from './libnbd.ts'

const MIB = 2 ** 20
const TIB = 2 ** 40
const SIZE = 14 * MIB + 512
const BLANK = ['--size', String(SIZE), '--command', 'truncate -s "$size" "$disk"']
/** debootstrap, where there is no folder of sid yet. */
const SID_LIMIT = 15 * 60_000
/** Status of hack/debian-sid where the machine cannot have one. */
const UNAVAILABLE = 69

const BACKENDS = ['disks', 'temporary', 'memory', 'forward'] as const
const SECURITIES = ['plain text', 'TLS'] as const

type BackendName = (typeof BACKENDS)[number]
type Security = (typeof SECURITIES)[number]

let folder: Scratch
let credentials: string
const servers = new Map<BackendName, ServerProcess>()

const serverOf = (backend: BackendName) => servers.get(backend) as ServerProcess

beforeAll(async () => {
  folder = await scratch()
  const certificates = join(folder.path, 'certificates')
  await check(join(checkout, 'hack/test-certificates'), [certificates])
  credentials = join(certificates, 'alice')
  await mkdir(join(folder.path, 'disks'))
  const tls = ['--tls', 'on', '--tls-cert', join(certificates, 'server/server-cert.pem')]
  tls.push('--tls-key', join(certificates, 'server/server-key.pem'))
  tls.push('--tls-client-ca', join(certificates, 'authority/ca-cert.pem'))
  const start = async (backend: BackendName, ...args: string[]) => {
    servers.set(backend, await startServer([...tls, ...args], { env: { TMPDIR: folder.path } }))
  }
  await start('disks', '--dir', join(folder.path, 'disks'), ...BLANK)
  await start('temporary', '--temporary', ...BLANK)
  await start('memory', '--backend', 'memory', `size=${SIZE}`)
  const upstream = `nbds://localhost:${serverOf('disks').port}?tls-certificates=${credentials}`
  await start('forward', '--upstream', upstream)
})

afterAll(async () => {
  for (const server of [...servers.values()].reverse()) expect(await server.stop()).toBe(0)
  await folder?.[Symbol.asyncDispose]()
})

/** Where a set of client programs lives, and what files look like from there. */
interface Clients {
  readonly name: string
  /** The forms of replies that its libnbd speaks. */
  readonly replies: readonly string[]
  /** The form that its qemu agrees on. */
  readonly qemuReplies: string
  /** Skips a test where they cannot be had. */
  need(context: TestContext): void
  check(program: string, ...args: readonly string[]): Promise<string>
  /** Its own path of a file that all clients need. */
  path(name: 'exercise.py' | 'alice'): string
}

/** The programs of this machine. */
const debian12: Clients = {
  name: 'Debian 12',
  replies: ['simple', 'structured'],
  qemuReplies: 'structured',
  need: async context => {
    await needPrograms(context, 'qemu-io', 'qemu-img', 'nbdinfo')
    await needLibnbd(context)
  },
  check: (program, ...args) => check(program === 'python3' ? PYTHON : program, args, { timeout: 120_000 }),
  path: name => (name === 'alice' ? credentials : join(import.meta.dirname, 'hostile/exercise.py')),
}

/** The folder of sid, and what of this test lies in it. */
let sidRoot: string | undefined
let noSid: string | undefined
let sidScratch = ''
const asRoot = process.getuid?.() === 0 ? [] : ['sudo', '-n']

const inSid = async (program: string, ...args: readonly string[]): Promise<string> => {
  const [first = '', ...rest] = [...asRoot, 'chroot', sidRoot ?? '', program, ...args]
  return check(first, rest, { timeout: 120_000 })
}

const sid: Clients = {
  name: 'Debian sid',
  replies: ['simple', 'structured', 'extended'],
  qemuReplies: 'extended',
  need: context => context.skip(noSid !== undefined, noSid),
  check: inSid,
  path: name => join(sidScratch, name),
}

beforeAll(async () => {
  const made = await run(join(checkout, 'hack/debian-sid'), [], { timeout: SID_LIMIT })
  if (made.status === UNAVAILABLE) {
    noSid = made.stderr.trim().split('\n').at(-1)
    return
  }
  if (made.status !== 0) throw new Error(`hack/debian-sid ended with ${made.status}:\n${made.stderr}`)
  sidRoot = made.stdout.trim()
  sidScratch = (await inSid('mktemp', '-d', '/tmp/ondemand-disk-e2e-XXXXXX')).trim()
  const shared = join(folder.path, 'shared')
  await mkdir(shared)
  await cp(join(import.meta.dirname, 'hostile/exercise.py'), join(shared, 'exercise.py'))
  await cp(credentials, join(shared, 'alice'), { recursive: true })
  const [first = '', ...rest] = [...asRoot, 'cp', '-r', `${shared}/.`, join(sidRoot, sidScratch)]
  await check(first, rest)
  // sid moves: what a failure below is about is the version that is said here.
  const versions = await inSid('sh', '-c', 'nbdinfo --version; qemu-io --version')
  const found = versions.split('\n').filter(line => /^(libnbd|qemu)/.test(line))
  process.stdout.write(`Debian sid has ${found.join(', ')}.\n`)
}, SID_LIMIT + 60_000)

afterAll(async () => {
  if (sidRoot !== undefined) await inSid('rm', '-rf', sidScratch)
})

/** URI of a disk for libnbd. */
function uriOf(clients: Clients, backend: BackendName, security: Security, disk: string): string {
  const { port } = serverOf(backend)
  return security === 'TLS'
    ? `nbds://localhost:${port}/${disk}?tls-certificates=${clients.path('alice')}`
    : `nbd://localhost:${port}/${disk}`
}

/** What each disk must hold is known but for the one in memory, which all names share. */
const knownOf = (backend: BackendName) => (backend === 'memory' ? 'read' : 'zero')

async function checksumOf(disk: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(join(folder.path, 'disks', disk)))
    .digest('hex')
}

/** Every command and flag of qemu-io that reaches a server. */
const QEMU_COMMANDS = [
  'write -P 1 0 1M',
  'write -f -P 2 4k 4k',
  'write -P 3 100 512',
  'write -z 64k 64k',
  'write -z -n 64k 64k',
  'write -z -u 128k 64k',
  'write -z -u -n 128k 64k',
  'write -z -f 192k 4k',
  'discard 512k 64k',
  'writev -P 7 6M 4k 8k 12k',
  'aio_write -P 4 2M 1M',
  'aio_write -P 5 3M 1M',
  'aio_write -z 5M 1M',
  'aio_flush',
  'flush',
  'read -P 2 4k 4k',
  'read -P 3 100 512',
  'read -P 0 64k 132k',
  'read -P 4 2M 1M',
  'read -P 5 3M 1M',
  'read -P 0 5M 1M',
  'readv -P 7 6M 4k 8k 12k',
  'read -P 1 700k 100k',
  'map',
  'write -P 6 8M 6M',
  'read -P 6 8M 6M',
]

describe.each([debian12, sid])('The clients of $name', clients => {
  describe.each(BACKENDS)('on %s', backend => {
    describe.each(SECURITIES)('in %s', security => {
      test.for(clients.replies)('libnbd, with %s replies', { timeout: 120_000 }, async (replies, context) => {
        await clients.need(context)
        const disk = `libnbd-${replies}-${clients.name}-${backend}-${security}`.replaceAll(' ', '-')
        const uri = uriOf(clients, backend, security, disk)
        const args = [clients.path('exercise.py'), uri, '11', '5', replies, knownOf(backend)]
        const expected = (await clients.check('python3', ...args)).trim()
        if (backend === 'disks' || backend === 'forward') expect(await checksumOf(disk)).toBe(expected)
      })

      test('qemu-io', async context => {
        await clients.need(context)
        const disk = `qemu-${clients.name}-${backend}-${security}`.replaceAll(' ', '-')
        const commands = QEMU_COMMANDS.flatMap(command => ['-c', command])
        const node = `driver=nbd,host=localhost,port=${serverOf(backend).port},export=${disk}`
        const tls = ['--object', `tls-creds-x509,id=tls,endpoint=client,dir=${clients.path('alice')}`]
        const output = await (security === 'TLS'
          ? clients.check('qemu-io', ...tls, '--image-opts', ...commands, `${node},tls-creds=tls`)
          : clients.check('qemu-io', '--image-opts', ...commands, node))
        expect(output).not.toMatch(/verification failed|failed|Error/i)
      })
    })
  })
})

// libnbd asserts in exercise.py what it has agreed on.
test.for([debian12, sid])('The qemu of $name agrees on what it knows', async (clients, context) => {
  await clients.need(context)
  // A server of its own: where many come and go, not every one is told to the log.
  await using server = await startServer(['--backend', 'memory', 'size=1M'])
  await clients.check('qemu-io', '-f', 'raw', '-c', 'read 0 512', server.uri('disk'))
  const replies = /"Disk opened"/.test(server.log()) && /"replies":"(\w+)"/.exec(server.log())?.[1]
  expect(replies, clients.name).toBe(clients.qemuReplies)
})

describe('With extended headers', () => {
  /** Runs python on a disk of 1 TiB, with `h` connected to it. */
  async function withHugeDisk(disk: string, script: string): Promise<ServerProcess> {
    const command = ['--size', String(TIB), '--command', 'truncate -s "$size" "$disk"']
    const server = await startServer(['--temporary', ...command], { env: { TMPDIR: folder.path } })
    const path = join(folder.path, `${disk}.py`)
    await writeFile(
      path,
      `import nbd, sys\nh = nbd.NBD()\nh.add_meta_context("base:allocation")\nh.connect_uri(sys.argv[1])\n` +
        `assert h.get_extended_headers_negotiated(), f"libnbd {h.get_version()}: no extended headers"\n${script}`,
    )
    const [first = '', ...rest] = [...asRoot, 'cp', path, join(sidRoot ?? '', sidScratch)]
    await check(first, rest)
    await inSid('python3', join(sidScratch, `${disk}.py`), server.uri(disk)).finally(() => server.stop())
    return server
  }

  test('libnbd zeroes, trims, caches and asks for the status of 1 TiB in one request', async context => {
    sid.need(context)
    await withHugeDisk(
      'huge',
      `
G = 1 << 30
T = 1 << 40
h.pwrite(b"\\x01" * 4096, 700 * G)
found = []
h.block_status_64(T, 0, lambda context, offset, entries, error: found.extend(entries))
assert [length for length, _ in found] == [700 * G, 4096, T - 700 * G - 4096], found
assert [flags for _, flags in found] == [3, 0, 3], found
h.cache(T, 0)
h.zero(T - 4096, 4096)
assert h.pread(4096, 700 * G) == bytes(4096)
h.pwrite(b"\\x01" * 4096, 900 * G)
h.trim(T, 0)
found = []
h.block_status_64(T, 0, lambda context, offset, entries, error: found.extend(entries))
assert found == [(T, 3)], found
h.shutdown()
`,
    )
  })

  test('libnbd chooses contexts by the payload of BLOCK_STATUS', async context => {
    sid.need(context)
    await withHugeDisk(
      'filtered',
      `
assert h.can_block_status_payload()
found = []
h.block_status_filter(1 << 40, 0, ["base:allocation"], lambda context, offset, entries, error: found.extend(entries))
assert found == [(1 << 40, 3)], found
h.shutdown()
`,
    )
  })
})
