/** The client against the servers that are out there. Their files, or foreign clients, tell what became of the data. */
import { randomBytes } from 'node:crypto'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { connect, type NbdClient } from './client.ts'
import { listExports, probe } from './discovery.ts'
import {
  freePort,
  makeFolder,
  needLibnbd,
  needPrograms,
  PYTHON,
  startNbdkit,
  startNbdServer,
  startOurs,
  startQemuNbd,
  succeed,
} from './test-servers.ts'

const SIZE = 48 * 2 ** 20

interface Serving {
  readonly uri: string
  /** File with the disk's contents, where there is one. */
  readonly file?: string
}

interface ServerKind {
  readonly name: string
  readonly program: string
  /** What this server is known to lack. */
  readonly lacks: readonly string[]
  start(folder: string, file: string): Promise<Serving>
}

const unixUri = (socket: string, name = '') => `nbd+unix:///${name}?socket=${encodeURIComponent(socket)}`

function nbdkit(
  name: string,
  lacks: readonly string[],
  before: readonly string[],
  plugin?: readonly string[],
): ServerKind {
  return {
    name,
    program: 'nbdkit',
    lacks,
    start: async (folder, file) => {
      const socket = join(folder, 's')
      await startNbdkit(folder, socket, ...before, ...(plugin ?? ['file', file]))
      return { uri: unixUri(socket), ...(plugin === undefined ? { file } : {}) }
    },
  }
}

const kinds: readonly ServerKind[] = [
  nbdkit('nbdkit, file', [], []),
  nbdkit('nbdkit, memory', [], [], ['memory', String(SIZE)]),
  nbdkit('nbdkit, simple replies', ['extents'], ['--no-sr']),
  nbdkit('nbdkit, fixed newstyle with zeroes', [], ['--mask-handshake=1']),
  nbdkit('nbdkit, newstyle', ['extents', 'list', 'probe'], ['--mask-handshake=0']),
  // It offers everything and then takes nothing but READ and WRITE.
  nbdkit('nbdkit, oldstyle', ['extents', 'what it offers'], ['-o']),
  {
    name: 'qemu-nbd, raw',
    program: 'qemu-nbd',
    lacks: [],
    start: async (folder, file) => {
      const socket = join(folder, 's')
      await startQemuNbd(folder, socket, '-f', 'raw', '-x', 'disk', '--discard=unmap', file)
      return { uri: unixUri(socket, 'disk'), file }
    },
  },
  {
    name: 'qemu-nbd, qcow2',
    program: 'qemu-img',
    lacks: [],
    start: async folder => {
      const socket = join(folder, 's')
      const image = join(folder, 'disk.qcow2')
      await succeed('qemu-img', 'create', '-q', '-f', 'qcow2', image, String(SIZE))
      await startQemuNbd(folder, socket, '-f', 'qcow2', '-x', 'disk', image)
      return { uri: unixUri(socket, 'disk') }
    },
  },
  {
    name: 'nbd-server',
    program: 'nbd-server',
    lacks: ['extents', 'cache', 'size in INFO'],
    start: async (folder, file) => {
      const port = await freePort()
      await startNbdServer(folder, port, file)
      return { uri: `nbd://127.0.0.1:${port}/disk`, file }
    },
  },
  {
    name: 'our own server',
    program: process.execPath,
    lacks: [],
    start: async folder => {
      const { uri } = await startOurs(
        folder,
        '127.0.0.1:0',
        '--size',
        String(SIZE),
        '--command',
        'truncate -s $size $disk',
      )
      return { uri: `${uri}/disk`, file: join(folder, 'disk') }
    },
  },
]

async function readAll(client: NbdClient): Promise<Buffer> {
  const bytes = Buffer.alloc(client.size, 0xee)
  await client.pread(bytes, 0, bytes.length, 0)
  return bytes
}

const noise = randomBytes(35 * 2 ** 20)

/** Writes in all sizes and ways that the server has, many at once, and keeps a model of the result. */
async function exercise(client: NbdClient, model: Buffer, onlyWrites: boolean): Promise<void> {
  const { flags } = client
  const write = async (length: number, offset: number, fua = false) => {
    const start = (offset * 31) % 2 ** 20
    await client.pwrite(noise, start, length, offset, { fua })
    noise.copy(model, offset, start, start + length)
  }
  await Promise.all([
    write(1, 0),
    write(4096, 511),
    write(100_000, 12_345),
    write(65_536, 200_000),
    write(65_537, 300_000),
    // Longer than what may be sent at once.
    write(33 * 2 ** 20 + 13, 2 ** 20),
    write(1, client.size - 1),
    ...Array.from({ length: 300 }, (_, index) => write(4096, 36 * 2 ** 20 + index * 8192)),
  ])
  if (onlyWrites) return
  if (flags.canFlush) await client.flush()
  if (flags.canFua) await write(4096, 40 * 2 ** 20, true)
  if (flags.canZero) {
    await client.zero(2 ** 20, 2 ** 20, { mayPunch: true })
    await client.zero(12_345, 4 * 2 ** 20 + 1)
    model.fill(0, 2 ** 20, 2 ** 21)
    model.fill(0, 4 * 2 ** 20 + 1, 4 * 2 ** 20 + 1 + 12_345)
  }
  if (flags.canCache) await client.cache(2 ** 20, 0)
  if (flags.canTrim) {
    await client.trim(2 ** 20, 44 * 2 ** 20)
    // What is there now is up to the server.
    await client.pread(model, 44 * 2 ** 20, 2 ** 20, 44 * 2 ** 20)
  }
}

async function checkDiscovery(client: NbdClient, { uri }: Serving, lacks: readonly string[]): Promise<void> {
  for (const [what, ability] of [
    ['extents', client.flags.canExtents],
    ['zero', client.flags.canZero],
    ['cache', client.flags.canCache],
  ] as const) {
    expect([what, ability]).toEqual([what, !lacks.includes(what)])
  }
  if (lacks.includes('list')) await expect(listExports(uri)).rejects.toMatchObject({ code: 'ENOTSUP' })
  else expect((await listExports(uri)).map(({ name }) => name)).toContain(new URL(uri).pathname.slice(1))
  if (lacks.includes('probe')) await expect(probe(uri)).rejects.toMatchObject({ code: 'ENOTSUP' })
  else {
    const size = lacks.includes('size in INFO') ? 0 : SIZE
    expect(await probe(uri)).toEqual({ ...client.info, size })
  }
}

/** On a disk on which nothing is written yet. */
async function checkExtents(client: NbdClient, model: Buffer): Promise<void> {
  await client.pwrite(noise, 0, 2 ** 20, 2 ** 20)
  noise.copy(model, 2 ** 20, 0, 2 ** 20)
  await client.flush()
  let at = 0
  const found: string[] = []
  while (at < SIZE) {
    for (const { length, hole, zero } of await client.extents(SIZE - at, at)) {
      const kind = hole && zero ? 'hole' : 'data'
      if (found.at(-1) !== kind) found.push(kind)
      at += length
    }
  }
  expect(at).toBe(SIZE)
  expect(found).toEqual(['hole', 'data', 'hole'])
  expect(await client.extents(4096, 2 ** 20, 1)).toEqual([
    { length: expect.any(Number), hole: false, zero: false },
  ])
}

test.for(kinds.map(kind => [kind.name, kind] as const))(
  '%s tells of its exports, tells holes from data, and keeps what is written',
  async ([, { program, lacks, start }], context) => {
    needPrograms(context, program)
    const folder = makeFolder()
    const file = join(folder, 'disk')
    if (program !== process.execPath) {
      writeFileSync(file, '')
      truncateSync(file, SIZE)
    }
    const serving = await start(folder, file)
    const client = await connect(serving.uri)
    expect(client.size).toBe(SIZE)
    expect(client.flags.readOnly).toBe(false)
    await checkDiscovery(client, serving, lacks)
    const model = Buffer.alloc(SIZE)
    if (!lacks.includes('extents')) await checkExtents(client, model)
    await exercise(client, model, lacks.includes('what it offers'))
    expect(model.equals(await readAll(client))).toBe(true)
    await client.close()
    if (serving.file !== undefined) expect(model.equals(readFileSync(serving.file))).toBe(true)
    const again = await connect(serving.uri)
    expect(model.equals(await readAll(again))).toBe(true)
    await again.close()
  },
)

describe('Other clients', () => {
  test('read what we write, and the other way round', async context => {
    needPrograms(context, 'nbdkit', 'qemu-io')
    needLibnbd(context)
    const folder = makeFolder()
    const port = await freePort()
    await startNbdkit(folder, port, 'memory', '1M')
    const uri = `nbd://127.0.0.1:${port}`
    const client = await connect(uri)
    const bytes = randomBytes(5000)
    await client.pwrite(bytes, 0, bytes.length, 70_000)
    const script = `import nbd,sys; h=nbd.NBD(); h.connect_uri(sys.argv[1]); print(h.pread(5000, 70000).hex()); h.pwrite(b'libnbd', 10)`
    expect((await succeed(PYTHON, '-c', script, uri)).trim()).toBe(bytes.toString('hex'))
    await succeed('qemu-io', '-f', 'raw', '-c', 'write -P 0x5a 4096 4096', uri)
    const read = Buffer.alloc(8192)
    await client.pread(read, 0, 8192, 0)
    expect(read.toString('latin1', 10, 16)).toBe('libnbd')
    expect(read.subarray(4096).equals(Buffer.alloc(4096, 0x5a))).toBe(true)
    await client.close()
  })
})
