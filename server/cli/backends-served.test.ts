import { describe, expect, test, vi } from 'vitest'
import { type Backend, type Completion, type OpenContext, PENDING } from '../backends/backend.ts'
import { fillIn } from '../backends/layer.ts'
import { createMemoryBackend } from '../backends/memory/memory.ts'
import { allGone, MIB, serve } from '../connection/test-server.ts'
import { catalogOf } from './test-catalog.ts'
import { libnbd, needClients } from './test-programs.ts'

/** A client that reads back what it writes for half a second, and tells how often it did. */
const POLITE = `
import time
h.connect_uri(sys.argv[1])
end = time.monotonic() + 0.5
rounds = 0
while time.monotonic() < end:
    offset = (rounds * 4096) % (h.get_size() - 4096)
    data = rounds.to_bytes(8, 'big') * 512
    h.pwrite(data, offset)
    assert h.pread(4096, offset) == data
    rounds += 1
h.flush()
h.shutdown()
print(rounds)
`

/** Tries to connect, read, write, zero and flush, and tells each failure as errno's name and text. */
const TRYING = `
def attempt(f):
    try:
        return len(f() or b'')
    except nbd.Error as e:
        return [e.errno, e.string]
result = {'connect': attempt(lambda: h.connect_uri(sys.argv[1]))}
if h.aio_is_ready():
    result['read'] = attempt(lambda: h.pread(4096, 0))
    result['write'] = attempt(lambda: h.pwrite(b'x' * 4096, 0))
    result['zero'] = attempt(lambda: h.zero(4096, 0))
    result['flush'] = attempt(lambda: h.flush())
    result['again'] = attempt(lambda: h.pread(512, 512))
    attempt(lambda: h.shutdown())
print(json.dumps(result))
`

type Disk = { readonly name: string; readonly bytes: Buffer }
type Callbacks = Partial<Backend<Disk>>

/** One backend whose disks misbehave each in its own way, beside one that does not. */
function misbehaving(ways: Readonly<Record<string, Callbacks>>) {
  const sound: Backend<Disk> & Required<Pick<Backend<Disk>, 'pwrite' | 'flush'>> = {
    apiVersion: 1,
    open: name => ({ name, bytes: Buffer.alloc(MIB) }),
    getSize: ({ bytes }) => bytes.length,
    async pread({ bytes }, target, start, length, offset) {
      bytes.copy(target, start, offset, offset + length)
    },
    async pwrite({ bytes }, source, start, length, offset) {
      source.copy(bytes, offset, start, start + length)
    },
    async flush() {},
  }
  const way = ({ name }: Disk) => ({ ...sound, ...ways[name] })
  const problems: string[] = []
  const backend: Backend<Disk> = {
    apiVersion: 1,
    open: (name: string, context: OpenContext) => way({ name, bytes: Buffer.alloc(0) }).open(name, context),
    getSize: disk => way(disk).getSize(disk),
    pread: (disk, ...rest) => way(disk).pread(disk, ...rest),
    pwrite: (disk, ...rest) => way(disk).pwrite(disk, ...rest),
    flush: (disk, ...rest) => way(disk).flush(disk, ...rest),
  }
  const filled = fillIn(backend, {
    readOnly: false,
    foreign: true,
    onProblem: problem => problems.push(problem.message),
    limits: { openMs: 300, answerMs: 300, closeMs: 300, leaveMs: 300 },
  })
  return { filled, problems }
}

const EIO = 'EIO'
const ENOSPC = 'ENOSPC'
const fails = (errno: string) => [errno, expect.any(String)]
const refused = { connect: [expect.any(String), expect.stringContaining('server has no export named')] }

const never = () => new Promise<never>(() => {})
const boom = () => {
  throw new TypeError('x is undefined')
}

/** What each kind of disk does, and what a client sees of it. */
const WAYS: Readonly<Record<string, { callbacks: Callbacks; seen: object }>> = {
  throwing: {
    callbacks: { pread: boom, pwrite: boom, flush: boom },
    seen: {
      connect: 0,
      read: fails(EIO),
      write: fails(EIO),
      zero: fails(EIO),
      flush: fails(EIO),
      again: fails(EIO),
    },
  },
  rejecting: {
    callbacks: {
      pread: () => Promise.reject(undefined),
      pwrite: () => Promise.reject(Object.assign(new Error('full'), { code: 'EDQUOT' })),
      flush: () => Promise.reject(28),
    },
    seen: {
      connect: 0,
      read: fails(EIO),
      write: fails(ENOSPC),
      zero: fails(ENOSPC),
      flush: fails(EIO),
      again: fails(EIO),
    },
  },
  short: {
    callbacks: {
      pread: (async () => 100) as unknown as Backend<Disk>['pread'],
      pwrite: (async () => 0) as unknown as NonNullable<Backend<Disk>['pwrite']>,
    },
    seen: { connect: 0, read: fails(EIO), write: fails(EIO), zero: fails(EIO), flush: 0, again: fails(EIO) },
  },
  'completing twice': {
    callbacks: {
      pread(_, __, ___, ____, _____, completion: Completion) {
        setImmediate(() => {
          completion.complete()
          completion.complete(new Error('again'))
          setTimeout(() => completion.complete(new Error('and again')), 5)
        })
        return PENDING
      },
      pwrite(_, __, ___, ____, _____, completion: Completion) {
        setTimeout(() => completion.complete(new Error('late')), 1)
      },
    },
    seen: { connect: 0, read: 4096, write: 0, zero: 0, flush: 0, again: 512 },
  },
  'a negative size': { callbacks: { getSize: () => -1 }, seen: refused },
  'no number for a size': { callbacks: { getSize: () => Number.NaN }, seen: refused },
  'a huge size': { callbacks: { getSize: async () => 2 ** 60 }, seen: refused },
  'open throws': { callbacks: { open: boom }, seen: refused },
  'open never ends': { callbacks: { open: never }, seen: refused },
  'getSize never ends': { callbacks: { getSize: never }, seen: refused },
}

describe('A backend that misbehaves', () => {
  const { filled, problems } = misbehaving(
    Object.fromEntries(Object.entries(WAYS).map(([name, { callbacks }]) => [name, callbacks])),
  )

  test('fails its own clients, and no others', { timeout: 20_000 }, async context => {
    needClients(context)
    const { port, log } = await serve({ catalog: catalogOf(filled) })
    const uri = (name: string) => `nbd://127.0.0.1:${port}/${encodeURIComponent(name)}`
    const polite = libnbd(uri('sound'), POLITE)
    const seen: Record<string, unknown> = {}
    for (const name of Object.keys(WAYS)) seen[name] = await libnbd(uri(name), TRYING)
    expect(seen).toEqual(
      Object.fromEntries(Object.entries(WAYS).map(([name, { seen: expected }]) => [name, expected])),
    )
    expect(await polite).toBeGreaterThan(10)
    expect(await libnbd(uri('sound'), POLITE)).toBeGreaterThan(10)
    expect(problems.length).toBeGreaterThan(3)
    for (const problem of problems) expect(problem).toMatch(/ended an operation that had ended before$/)
    const reasons = log.map(({ fields }) => fields.reason)
    expect(reasons).toContain("The backend's pread failed: x is undefined")
    expect(reasons).toContain(
      "The backend's getSize told a size of -1, not a whole number of bytes from 0 to 9007199254740991",
    )
    expect(reasons).toContain("The backend's open gave no answer within 0.3 s")
  })
})

test('A size that changes is that of each connection', async context => {
  needClients(context)
  let size = MIB
  const { filled } = misbehaving({ growing: { getSize: () => size } })
  const { port } = await serve({ catalog: catalogOf(filled) })
  const sizes: unknown[] = []
  for (let round = 0; round < 3; round++) {
    sizes.push(
      await libnbd(`nbd://127.0.0.1:${port}/growing`, 'h.connect_uri(sys.argv[1]); print(h.get_size())'),
    )
    size -= 4096
  }
  expect(sizes).toEqual([MIB, MIB - 4096, MIB - 8192])
})

test('A disk that never answers does not hold up another', { timeout: 20_000 }, async context => {
  needClients(context)
  const stuck: Completion[] = []
  const { filled } = misbehaving({
    stuck: {
      pread(_, __, ___, ____, _____, completion) {
        stuck.push(completion)
        return PENDING
      },
    },
  })
  const server = await serve({ catalog: catalogOf(filled) })
  const uri = (name: string) => `nbd://127.0.0.1:${server.port}/${name}`
  const waiting = libnbd(uri('stuck'), `${TRYING}`)
  await expect.poll(() => stuck.length).toBe(1)
  expect(await libnbd(uri('sound'), POLITE)).toBeGreaterThan(10)
  const answer = setInterval(() => stuck.pop()?.complete(), 1)
  expect(await waiting).toMatchObject({ connect: 0, read: 4096 })
  clearInterval(answer)
  await allGone(server)
})

test('A server stops although its backend owes a client its disk', async context => {
  needClients(context)
  let opens = 0
  const { filled } = misbehaving({
    stuck: {
      open() {
        opens++
        return never()
      },
    },
  })
  const { server, port } = await serve({ catalog: catalogOf(filled) })
  const client = libnbd(`nbd://127.0.0.1:${port}/stuck`, TRYING)
  await expect.poll(() => opens).toBe(1)
  await server.stop()
  expect(await client).toMatchObject({ connect: [expect.anything(), expect.any(String)] })
  expect(server.connections).toBe(0)
})

test('A server stops although its backend owes a client an answer', async context => {
  needClients(context)
  const stuck: Completion[] = []
  const { filled } = misbehaving({
    stuck: {
      pread(...[, , , , , completion]) {
        stuck.push(completion)
        return PENDING
      },
    },
  })
  const { server, port } = await serve({ catalog: catalogOf(filled) })
  const client = libnbd(`nbd://127.0.0.1:${port}/stuck`, TRYING)
  await expect.poll(() => stuck.length).toBe(1)
  const clock = performance.now.bind(performance)
  let shift = 0
  vi.spyOn(performance, 'now').mockImplementation(() => clock() + shift)
  const stopped = server.stop()
  // What the server grants to connections that are busy.
  shift = 8000
  await stopped
  vi.restoreAllMocks()
  expect(await client).toMatchObject({ connect: 0, read: fails('ENOTCONN') })
  for (const completion of stuck) completion.complete()
})

/** Every command, checked against what the client itself remembers. */
const EVERYTHING = `
import os, random
h.add_meta_context('base:allocation')
h.set_request_structured_replies(STRUCTURED)
h.connect_uri(sys.argv[1])
size = h.get_size()
model = bytearray(size)
random.seed(7)
FUA = nbd.CMD_FLAG_FUA
for i in range(300):
    offset = random.randrange(size)
    length = random.choice([1, 512, 4096, 65536, 100000, 2 ** 20])
    length = min(length, size - offset)
    kind = random.randrange(6)
    flags = random.choice([0, FUA])
    if kind < 2:
        data = os.urandom(length)
        h.pwrite(data, offset, flags)
        model[offset:offset + length] = data
    elif kind == 2:
        h.zero(length, offset, flags | random.choice([0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO]))
        model[offset:offset + length] = bytes(length)
    elif kind == 3:
        h.cache(length, offset)
        h.flush()
    elif kind == 4:
        start = -(-offset // 65536) * 65536
        end = (offset + length) // 65536 * 65536
        if start < end:
            h.trim(end - start, start, flags)
            model[start:end] = bytes(end - start)
    else:
        assert h.pread(length, offset) == model[offset:offset + length], (offset, length)
        if STRUCTURED:
            told = []
            h.block_status(length, offset, lambda context, at, entries, error: told.extend(entries))
            at = offset
            for n, state in zip(told[0::2], told[1::2]):
                assert n > 0 and at + n <= size
                if state & nbd.STATE_ZERO: assert not any(model[at:at + n])
                at += n
assert h.pread(2 ** 20, 0) == model[:2 ** 20]
can = [h.is_read_only(), h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero(), h.can_cache()]
h.shutdown()
print(json.dumps(can))
`

describe('The backend of a disk in memory', () => {
  test.for(['True', 'False'])('obeys libnbd, with structured replies: %s', async (structured, context) => {
    needClients(context)
    const filled = fillIn(createMemoryBackend({ size: 3 * MIB + 77 }), { readOnly: false, onProblem() {} })
    const { port } = await serve({ catalog: catalogOf(filled) })
    const script = EVERYTHING.replaceAll('STRUCTURED', structured)
    expect(await libnbd(`nbd://127.0.0.1:${port}/any`, script)).toEqual([
      false,
      ...[true, true, true, true, true, true],
    ])
  })

  test('is the same for the next client, whatever it calls it', async context => {
    needClients(context)
    const filled = fillIn(createMemoryBackend({ size: 2 ** 40 }), { readOnly: false, onProblem() {} })
    const { port } = await serve({ catalog: catalogOf(filled) })
    const uri = (name: string) => `nbd://127.0.0.1:${port}/${name}`
    await libnbd(
      uri('one'),
      'h.connect_uri(sys.argv[1]); h.pwrite(b"hello", 2 ** 39); h.shutdown(); print(0)',
    )
    const read = 'h.connect_uri(sys.argv[1]); print(json.dumps(h.pread(7, 2 ** 39 - 1).decode()))'
    expect(await libnbd(uri('other'), read)).toBe('\0hello\0')
  })
})
