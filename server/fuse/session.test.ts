import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ERRNO } from '../linux/errno.ts'
import { IN_HEADER_SIZE, OPCODE } from './constants.ts'
import { type FuseDisk, PENDING } from './disk.ts'
import { Exchange, MAX_DATA } from './exchange.ts'
import { FuseProtocolError, INTERRUPT_IN } from './protocol.ts'
import { NO_REPLY, newState, Session, STATE } from './session.ts'
import { GOLDEN, golden } from './test-golden.ts'

const SIZE = 0x5_0000_0006

/** A disk that writes down what it is asked, and answers `results` in turn, or 0. */
function recorder(results: number[] = [], overrides: Partial<FuseDisk> = {}) {
  const calls: unknown[][] = []
  const note = (...call: unknown[]) => {
    calls.push(call)
    return results.shift() ?? 0
  }
  const disk: FuseDisk = {
    canWrite: true,
    blockSize: 4096,
    size: () => SIZE,
    usage: () => ({ allocated: 0x801 * 512, changedAt: 1_700_000_000.5 }),
    read: (_, length, offset) => note('read', length, offset),
    write: (exchange, start, length, offset, durable) =>
      note('write', exchange.input.toString('hex', start, start + length), offset, durable),
    flush: () => note('flush'),
    zero: (_, length, offset, punch) => note('zero', length, offset, punch),
    truncate: (_, size) => note('truncate', size),
    allocate: (_, length, offset) => note('allocate', length, offset),
    seek: (_, offset, kind) => note('seek', offset, kind),
    ...overrides,
  }
  return { disk, calls }
}

interface Given {
  readonly writable?: boolean
  readonly growable?: boolean
  readonly allowOther?: boolean
  readonly results?: number[]
  readonly disk?: Partial<FuseDisk>
}

function setUp({ writable = true, growable = true, allowOther = true, results, disk }: Given = {}) {
  const { disk: recording, calls } = recorder(results, disk)
  const state = newState(writable, 11, 12)
  const interrupted: number[] = []
  const session = new Session(recording, { writable, growable, allowOther, state }, ({ request }) => {
    interrupted.push(request[INTERRUPT_IN.UNIQUE] ?? 0)
    return NO_REPLY
  })
  const exchange = new Exchange(() => undefined)
  const answered = (length: number): string | number =>
    length > 0
      ? exchange.output.toString('hex', exchange.dataStart - 16, exchange.dataStart - 16 + length)
      : length
  /** The reply in hexadecimal; a number where there is none. */
  const ask = (message: Buffer): string | number => {
    message.copy(exchange.input)
    return answered(session.handle(exchange, message.length))
  }
  return {
    ask,
    calls,
    state,
    session,
    exchange,
    interrupted,
    finish: (r: number) => answered(session.finish(exchange, r)),
  }
}

describe('golden messages', () => {
  test.each([
    ['INIT', 'INIT_OUT', []],
    ['GETATTR', 'ATTR_OUT', []],
    ['STATFS', 'STATFS_OUT', []],
    ['OPEN_TRUNC', 'OPEN_OUT', [['truncate', 0]]],
    ['WRITE', 'WRITE_OUT', [['write', 'deadbeef', 0x2_0000_0003, true]], 4],
    ['LSEEK', 'LSEEK_OUT', [['seek', 0x1_0000_0002, 'hole']], 0x4_0000_0005],
    ['SETATTR_SIZE', 'ATTR_OUT', [['truncate', 0x3_0000_0004]]],
    ['FALLOCATE', 'OK', [['zero', 0x3000, 0x1_0000_0002, true]]],
    ['FSYNC', 'OK', [['flush']]],
    ['FLUSH', 'OK', [['flush']]],
    ['RELEASE', 'OK', []],
    ['DESTROY', 'OK', []],
    ['LOOKUP', 'ENOENT', []],
    ['POLL', 'ENOSYS', []],
    ['SETATTR_MTIME', 'EOPNOTSUPP', []],
  ] as const)('%s is answered by %s', (request, reply, calls, result?: number) => {
    const { ask, calls: made } = setUp({
      results: [result ?? 0],
      ...(request === 'STATFS' && {
        disk: { size: () => 0x1001 * 4096, usage: () => ({ allocated: 0x800 * 4096, changedAt: 0 }) },
      }),
    })
    expect(ask(golden(request))).toBe(GOLDEN[reply])
    expect(made).toEqual(calls)
  })

  test('READ is answered by the data that the disk has put there', () => {
    const { ask, calls } = setUp({
      disk: {
        read: (exchange, length, offset) => {
          expect([length, offset]).toEqual([0x1000, 0x2_0000_0003])
          return exchange.output.write('data', exchange.dataStart)
        },
      },
    })
    expect(ask(golden('READ'))).toBe(
      `1400000000000000${'8877665544332211'}${Buffer.from('data').toString('hex')}`,
    )
    expect(calls).toEqual([])
  })

  test('mode and owner are kept, for all who share the state', () => {
    const { ask, state } = setUp()
    const reply = Buffer.from(String(ask(golden('SETATTR_MODE'))), 'hex')
    // struct fuse_attr begins 16 bytes behind the header; mode, nlink, uid and gid are at its byte 60.
    const at = 16 + 16 + 60
    expect([0, 4, 8, 12].map(field => reply.readUInt32LE(at + field))).toEqual([0o100644, 1, 1001, 1002])
    expect([...state.subarray(0, 3)]).toEqual([0o644, 1001, 1002])
  })

  test('errors of the disk go out by their number', () => {
    const { ask } = setUp({ results: [-ERRNO.ENOSPC] })
    expect(ask(golden('WRITE'))).toBe(GOLDEN.ENOSPC)
  })

  test.each(['FORGET', 'INTERRUPT'] as const)('%s is not answered', request => {
    expect(setUp().ask(golden(request))).toBe(NO_REPLY)
  })

  test('the number of an interrupted request is told', () => {
    const { ask, interrupted } = setUp()
    ask(golden('INTERRUPT'))
    expect(interrupted).toEqual([0x66554433])
  })
})

describe('what the file allows', () => {
  test('nothing changes a file that can only be read', () => {
    const { ask, calls } = setUp({ writable: false, growable: false })
    for (const request of ['WRITE', 'SETATTR_SIZE', 'FALLOCATE'] as const) {
      expect(ask(golden(request))).toBe(GOLDEN.EACCES)
    }
    expect(ask(golden('FSYNC'))).toBe(GOLDEN.OK)
    expect(calls).toEqual([])
  })

  test('without other users there are no bits and no owners for them', () => {
    const { ask, state } = setUp({ allowOther: false })
    expect(ask(golden('SETATTR_MODE'))).toBe(GOLDEN.EOPNOTSUPP)
    expect([...state.subarray(0, 3)]).toEqual([0o600, 11, 12])
  })

  test.each([
    // size of the disk, bytes that reach it of the 4 at 0x200000003
    [0x2_0000_0003 + 4, 4],
    [0x2_0000_0003 + 3, 3],
    [0x2_0000_0003 + 1, 1],
    [0x2_0000_0003, 0],
    [0, 0],
  ])('a disk of %i bytes that does not grow takes %i bytes of a write over its end', (size, bytes) => {
    const { ask, calls } = setUp({ growable: false, results: [bytes], disk: { size: () => size } })
    const reply = Buffer.from(String(ask(golden('WRITE'))), 'hex')
    expect(reply.readInt32LE(4)).toBe(0)
    expect(reply.readUInt32LE(16)).toBe(bytes)
    expect(calls).toEqual(bytes === 0 ? [] : [['write', 'deadbeef'.slice(0, 2 * bytes), 0x2_0000_0003, true]])
  })

  test('a disk that does not grow keeps its size when it is opened for writing anew', () => {
    const { ask, calls } = setUp({ growable: false })
    expect(ask(golden('OPEN_TRUNC'))).toBe(GOLDEN.OPEN_OUT)
    expect(calls).toEqual([])
  })

  test('open files are counted', () => {
    const { ask, state } = setUp()
    ask(golden('OPEN_TRUNC'))
    ask(golden('OPEN_TRUNC'))
    ask(golden('RELEASE'))
    expect(state[STATE.OPEN]).toBe(1)
  })
})

test('an operation that ends later is answered then', () => {
  const { ask, finish } = setUp({ results: [PENDING] })
  expect(ask(golden('WRITE'))).toBe(PENDING)
  expect(finish(4)).toBe(GOLDEN.WRITE_OUT)
})

describe('malformed messages', () => {
  const broken = (message: Buffer) => expect(() => setUp().ask(message)).toThrow(FuseProtocolError)
  const changed = (name: keyof typeof GOLDEN, at: number, value: number) => {
    const message = golden(name)
    message.writeUInt32LE(value, at)
    return message
  }

  test('every message that is cut short, at every byte', () => {
    for (const name of [
      'INIT',
      'READ',
      'WRITE',
      'SETATTR_SIZE',
      'FALLOCATE',
      'LSEEK',
      'OPEN_TRUNC',
    ] as const) {
      const message = golden(name)
      const { ask } = setUp()
      for (let length = 0; length < message.length; length++) {
        expect(() => ask(message.subarray(0, length)), `${name} ${length}`).toThrow(FuseProtocolError)
        if (length < IN_HEADER_SIZE) continue
        const short = Buffer.from(message.subarray(0, length))
        short.writeUInt32LE(length, 0)
        // INIT has grown over the years; what an older kernel leaves out is not needed.
        if (name === 'INIT' && length >= IN_HEADER_SIZE + 16) continue
        expect(() => ask(short), `${name} ${length}`).toThrow(FuseProtocolError)
      }
    }
  })

  test('a WRITE whose size is not that of its data', () => broken(changed('WRITE', IN_HEADER_SIZE + 16, 5)))
  test('a READ of more than was agreed', () => broken(changed('READ', IN_HEADER_SIZE + 16, MAX_DATA + 1)))
  test('a kernel that is too old', () => {
    broken(changed('INIT', IN_HEADER_SIZE, 6))
    broken(changed('INIT', IN_HEADER_SIZE + 4, 22))
  })

  test('any bytes end the session, or are answered', () => {
    const { ask } = setUp()
    const opcodes = fc.constantFrom(...Object.values(OPCODE), 99)
    fc.assert(
      fc.property(opcodes, fc.uint8Array({ minLength: 0, maxLength: 120 }), (opcode, body) => {
        const message = Buffer.alloc(IN_HEADER_SIZE + body.length)
        message.set(body, IN_HEADER_SIZE)
        message.writeUInt32LE(message.length, 0)
        message.writeUInt32LE(opcode, 4)
        message.writeUInt32LE(1, 16)
        try {
          const reply = ask(message)
          expect(typeof reply === 'string' || reply === NO_REPLY).toBe(true)
        } catch (error) {
          expect(error).toBeInstanceOf(FuseProtocolError)
        }
      }),
      { numRuns: 300 },
    )
  })
})
