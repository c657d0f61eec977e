import { describe, expect, test, vi } from 'vitest'
import { type Backend, type Completion, type OpenContext, PENDING } from '../backends/backend.ts'
import { pwrite, smallBackend } from '../backends/layer/test-operation.ts'
import { fillIn } from '../backends/layer.ts'
import { createMemoryBackend } from '../backends/memory/memory.ts'
import { bytesLent, takeBuffer } from '../connection/buffers.ts'
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

describe('What a backend can do', () => {
  const FLAGS = `
h.set_request_structured_replies(True)
h.connect_uri(sys.argv[1])
print(json.dumps([h.is_read_only(), h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero(),
  h.can_cache(), h.can_multi_conn(), h.is_rotational()]))
h.shutdown()
`
  const names = ['readOnly', 'flush', 'fua', 'trim', 'zero', 'fastZero', 'cache', 'multiConn', 'rotational']
  const CASES: readonly [string, Partial<Backend<Buffer>>, readonly string[]][] = [
    ['nothing but read', {}, ['readOnly', 'cache']],
    ['write', { pwrite }, ['zero', 'fastZero', 'cache']],
    ['flush', { pwrite, flush() {} }, ['flush', 'fua', 'zero', 'fastZero', 'cache']],
    ['FUA', { pwrite, canFua: () => true }, ['fua', 'zero', 'fastZero', 'cache']],
    ['zero', { pwrite, zero() {} }, ['zero', 'cache']],
    ['trim', { pwrite, trim() {} }, ['trim', 'zero', 'fastZero', 'cache']],
    [
      'more',
      { canMultiConn: () => true, isRotational: () => true },
      ['readOnly', 'cache', 'multiConn', 'rotational'],
    ],
  ]
  test.for(CASES)('is announced: %s', async ([, more, expected], context) => {
    needClients(context)
    const filled = fillIn(smallBackend(more), { readOnly: false, onProblem() {} })
    const { port } = await serve({ catalog: catalogOf(filled, { unlocked: true }) })
    const flags = (await libnbd(`nbd://127.0.0.1:${port}/x`, FLAGS)) as boolean[]
    expect(names.filter((_, index) => flags[index])).toEqual(expected)
  })

  test('decides how FUA is obeyed', async context => {
    needClients(context)
    const writes: string[] = []
    const disk = Buffer.alloc(4 * MIB)
    const noted: Partial<Backend<Buffer>> = {
      open: () => disk,
      pwriteNow() {
        throw new Error('This would not be durable')
      },
      pwrite(inner, source, start, length, offset, completion, fua) {
        writes.push(`${length}${fua ? ' fua' : ''}`)
        pwrite(inner, source, start, length, offset, completion)
      },
      trim: (_, __, ___, ____, fua) => void writes.push(`trim${fua ? ' fua' : ''}`),
      canFua: () => true,
    }
    const { port } = await serve({
      catalog: catalogOf(fillIn(smallBackend(noted), { readOnly: false, onProblem() {} })),
    })
    const script = `
h.connect_uri(sys.argv[1])
FUA = nbd.CMD_FLAG_FUA
h.pwrite(b'a' * 4096, 0, FUA)
h.zero(4096, 0, FUA)
h.trim(4096, 0, FUA)
h.pwrite(b'b' * (3 * 2 ** 20), 0, FUA)
h.shutdown()
print(0)`
    await libnbd(`nbd://127.0.0.1:${port}/x`, script)
    expect(writes.slice(0, 3)).toEqual(['4096 fua', '4096 fua', 'trim fua'])
    expect(writes.slice(3).every(write => write.endsWith(' fua'))).toBe(true)
    expect(disk.subarray(0, 3 * MIB).every(byte => byte === 98)).toBe(true)
  })

  test('in which blocks is announced and kept to', async context => {
    needClients(context)
    const minimum = 65_536
    const maximum = 3 * minimum
    const disk = Buffer.alloc(8 * MIB)
    const seen: number[] = []
    const backend = smallBackend({
      open: () => disk,
      pwrite(inner, source, start, length, offset, completion) {
        seen.push(length, offset)
        expect(length).toBeLessThanOrEqual(maximum)
        pwrite(inner, source, start, length, offset, completion)
      },
      pwriteNow: (inner, source, start, length, offset) => {
        source.copy(inner, offset, start, start + length)
        return Math.min(100_000, length)
      },
      blockSizes: () => ({ minimum, preferred: minimum, maximum }),
    })
    const { port } = await serve({ catalog: catalogOf(fillIn(backend, { readOnly: false, onProblem() {} })) })
    const script = `
import os
h.connect_uri(sys.argv[1])
sizes = [h.get_block_size(n) for n in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
errors = []
for f in (lambda: h.pread(512, 0), lambda: h.pread(65536, 512), lambda: h.pwrite(b'x' * 512, 0), lambda: h.zero(65536, 512)):
    try: f()
    except nbd.Error as e: errors.append(e.errno)
data = os.urandom(5 * 2 ** 20)
h.pwrite(data, 65536)
assert h.pread(len(data), 65536) == data
h.shutdown()
print(json.dumps([sizes, errors]))`
    expect(await libnbd(`nbd://127.0.0.1:${port}/x`, script)).toEqual([
      [minimum, minimum, maximum],
      ['EINVAL', 'EINVAL', 'EINVAL', 'EINVAL'],
    ])
    expect(seen.length).toBeGreaterThan(0)
    expect(seen.every(value => value % minimum === 0)).toBe(true)
  })

  test('decides what the empty name stands for', async context => {
    needClients(context)
    const opens: string[] = []
    const backend = smallBackend({
      open(name) {
        opens.push(name)
        return Buffer.alloc(4096)
      },
      defaultExport: async () => 'main',
    })
    const { port } = await serve({
      catalog: catalogOf(fillIn(backend, { readOnly: false, onProblem() {} }), { anyName: true }),
    })
    const script = 'h.connect_uri(sys.argv[1]); h.shutdown(); print(0)'
    await libnbd(`nbd://127.0.0.1:${port}`, script)
    await libnbd(`nbd://127.0.0.1:${port}/main`, script)
    await libnbd(`nbd://127.0.0.1:${port}/default`, script)
    expect(opens).toEqual(['main', 'main', 'default'])
  })
})

test('A disk whose client has left is not given to another while an operation is under way', async context => {
  needClients(context)
  const stuck: Completion[] = []
  let writes: Buffer[] = []
  const backend = smallBackend({
    pwrite(_, source, __, ___, ____, completion) {
      stuck.push(completion)
      writes.push(source)
      return PENDING
    },
  })
  const filled = fillIn(backend, { readOnly: false, onProblem() {}, limits: { leaveMs: 100 } })
  const server = await serve({ catalog: catalogOf(filled) })
  const uri = `nbd://127.0.0.1:${server.port}/x`
  const lent = bytesLent()
  await libnbd(
    uri,
    'h.connect_uri(sys.argv[1]); h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), 0); print(0)',
  )
  await expect.poll(() => stuck.length).toBe(1)
  await allGone(server)
  expect(bytesLent()).toBe(lent)
  const [late] = writes
  expect(takeBuffer(4096)).not.toBe(late)

  const connect = 'h.connect_uri(sys.argv[1]); h.shutdown(); print(0)'
  await expect(libnbd(uri, connect)).rejects.toThrow('server policy prevents NBD_OPT_GO')
  for (const completion of stuck.splice(0)) completion.complete()
  writes = []
  await expect.poll(() => server.admission.holderOf('x')).toBeUndefined()
  await libnbd(uri, connect)
})

test('Memory lent to a large READ that was given up is never used again', async context => {
  needClients(context)
  const targets: Buffer[] = []
  const backend = smallBackend({
    open: () => Buffer.alloc(0),
    getSize: () => 8 * MIB,
    pread(_, target) {
      targets.push(target)
      return PENDING
    },
  })
  const filled = fillIn(backend, { readOnly: false, onProblem() {}, limits: { leaveMs: 100 } })
  const lent = bytesLent()
  const { server, port } = await serve({ catalog: catalogOf(filled) })
  const script = 'h.connect_uri(sys.argv[1])\ntry: h.pread(4 * 2 ** 20, 0)\nexcept nbd.Error: print(0)'
  const client = libnbd(`nbd://127.0.0.1:${port}/x`, script)
  await expect.poll(() => targets.length).toBe(1)
  const clock = performance.now.bind(performance)
  let shift = 0
  vi.spyOn(performance, 'now').mockImplementation(() => clock() + shift)
  const stopped = server.stop()
  shift = 8000
  await stopped
  vi.restoreAllMocks()
  await client
  await expect.poll(() => bytesLent()).toBe(lent)
  expect(takeBuffer(MIB)).not.toBe(targets[0])
})
