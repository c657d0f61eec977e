import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { ServerViolation } from './client-handshake.ts'
import type { ReplyStyle } from './client-negotiation.ts'
import { ReplyParser } from './client-replies.ts'
import { PendingRequest, type ReportedExtent, wireErrorCode, writeRequest } from './client-transmission.ts'
import { CMD, CMD_FLAG } from './constants.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/[\s|]/g, ''), 'hex')
const ascii = (text: string) => Buffer.from(text).toString('hex')
const u32 = (value: number) => value.toString(16).padStart(8, '0')
const u64 = (value: number) => value.toString(16).padStart(16, '0')

const OFFSET = 0x0102030405
const COOKIE = '0a0b0c0d 00000003'

/** A request of 16 bytes from OFFSET on that waits for its reply. */
function pending(command: number, length = 16, flags = 0): PendingRequest {
  const request = new PendingRequest()
  request.command = command
  request.flags = flags
  request.offset = command === CMD.FLUSH ? 0 : OFFSET
  request.length = command === CMD.FLUSH ? 0 : length
  request.cookieHigh = 0x0a0b0c0d
  request.cookieLow = 3
  if (command === CMD.READ) {
    // Surrounded, so that a byte too many shows.
    request.buffer = Buffer.alloc(length + 4, 0xee)
    request.start = 2
  }
  if (command === CMD.BLOCK_STATUS) {
    request.extents = []
    request.limit = 4
  }
  request.expectReply()
  return request
}

/** What one request got of these bytes, cut into pieces of these lengths. */
function receive(
  style: ReplyStyle,
  request: PendingRequest,
  text: string | Buffer,
  cuts: readonly number[] = [],
  placeDirectly = false,
): boolean {
  let finished = 0
  const parser = new ReplyParser(style, 7, {
    find: (high, low) =>
      finished === 0 && high === request.cookieHigh && low === request.cookieLow ? request : undefined,
    finished: () => {
      finished++
    },
  })
  const bytes = typeof text === 'string' ? hex(text) : text
  let at = 0
  for (let turn = 0; at < bytes.length; turn++) {
    const end = Math.min(
      bytes.length,
      at + (cuts.length === 0 ? bytes.length : (cuts[turn % cuts.length] ?? 1)),
    )
    if (placeDirectly && parser.dataLeft > 0) {
      const target = parser.dataTarget()
      const taken = Math.min(target.length, end - at)
      bytes.copy(target, 0, at, at + taken)
      parser.filled(taken)
      at += taken
      continue
    }
    const piece = Buffer.from(bytes.subarray(at, end))
    parser.receive(piece, 0, piece.length)
    piece.fill(0xaa)
    at = end
  }
  return finished === 1
}

const DATA = '00112233445566778899aabbccddeeff'
const simple = (errno = 0, cookie = COOKIE) => `67446698 ${u32(errno)} ${cookie}`
const chunk = (type: number, payload: string, isLast = true, cookie = COOKIE) =>
  `668e33ef ${isLast ? '0001' : '0000'} ${type.toString(16).padStart(4, '0')} ${cookie} ${u32(hex(payload).length)} ${payload}`
const wide = (type: number, payload: string, isLast = true, offset = OFFSET, cookie = COOKIE) =>
  `6e8a278c ${isLast ? '0001' : '0000'} ${type.toString(16).padStart(4, '0')} ${cookie} ${u64(offset)} ${u64(hex(payload).length)} ${payload}`
const data = (at: number, bytes: string) => `${u64(OFFSET + at)} ${bytes}`
const hole = (at: number, length: number) => `${u64(OFFSET + at)} ${u32(length)}`
const error = (errno: number, text: string, behind = '') =>
  `${u32(errno)} ${u32(Buffer.byteLength(text)).slice(4)} ${ascii(text)} ${behind}`
const status = (...extents: readonly (readonly [number, number])[]) =>
  `00000007 ${extents.map(([length, flags]) => u32(length) + u32(flags)).join('')}`
const wideStatus = (count: number, ...extents: readonly (readonly [number, number])[]) =>
  `00000007 ${u32(count)} ${extents.map(([length, flags]) => u64(length) + u64(flags)).join('')}`

describe('A request has the bytes of the specification', () => {
  const request = (command: number, flags: number) => {
    const made = pending(command, 0x11223344, flags)
    made.extents = undefined
    return made
  }
  const written = (made: PendingRequest, isExtended: boolean) => {
    const buffer = Buffer.alloc(40, 0xee)
    const end = writeRequest(buffer, 1, made, isExtended)
    expect(buffer[0]).toBe(0xee)
    expect(buffer[end]).toBe(0xee)
    return buffer.subarray(1, end)
  }

  test('in its compact form', () => {
    expect(written(request(CMD.WRITE, CMD_FLAG.FUA), false)).toEqual(
      hex(`25609513 0001 0001 ${COOKIE} 0000000102030405 11223344`),
    )
  })

  test('in its extended form, where a WRITE says PAYLOAD_LEN', () => {
    expect(written(request(CMD.WRITE, CMD_FLAG.FUA), true)).toEqual(
      hex(`21e41c71 0021 0001 ${COOKIE} 0000000102030405 0000000011223344`),
    )
    const zeroes = request(CMD.WRITE_ZEROES, CMD_FLAG.NO_HOLE)
    zeroes.length = 0x0506070809
    expect(written(zeroes, true)).toEqual(
      hex(`21e41c71 0002 0006 ${COOKIE} 0000000102030405 0000000506070809`),
    )
  })
})

/** Every kind of reply, with what it must come to. */
const replies: readonly (readonly [
  string,
  ReplyStyle,
  () => PendingRequest,
  string,
  (request: PendingRequest) => unknown,
  unknown,
])[] = [
  ['a simple reply', 'simple', () => pending(CMD.WRITE), simple(), r => r.errno, 0],
  [
    'a simple reply with data',
    'simple',
    () => pending(CMD.READ),
    simple() + DATA,
    r => r.buffer.toString('hex'),
    `eeee${DATA}eeee`,
  ],
  [
    'a simple error',
    'simple',
    () => pending(CMD.READ),
    simple(28),
    r => [r.errno, r.buffer.includes(0)],
    [28, false],
  ],
  [
    'a simple reply beside structured ones',
    'structured',
    () => pending(CMD.FLUSH),
    simple(5),
    r => r.errno,
    5,
  ],
  [
    'a simple error to BLOCK_STATUS',
    'structured',
    () => pending(CMD.BLOCK_STATUS),
    simple(22),
    r => r.errno,
    22,
  ],
  ['an empty chunk', 'structured', () => pending(CMD.TRIM), chunk(0, ''), r => r.errno, 0],
  [
    'flags that are not known',
    'structured',
    () => pending(CMD.TRIM),
    `668e33ef fff1 0000 ${COOKIE} 00000000`,
    r => r.errno,
    0,
  ],
  [
    'one chunk of data',
    'structured',
    () => pending(CMD.READ),
    chunk(1, data(0, DATA)),
    r => r.buffer.toString('hex'),
    `eeee${DATA}eeee`,
  ],
  [
    'chunks out of order, a hole among them',
    'structured',
    () => pending(CMD.READ),
    chunk(1, data(10, DATA.slice(20)), false) +
      chunk(2, hole(2, 8), false) +
      chunk(1, data(0, DATA.slice(0, 4)), false) +
      chunk(0, ''),
    r => r.buffer.toString('hex'),
    `eeee${DATA.slice(0, 4)}${'00'.repeat(8)}${DATA.slice(20)}eeee`,
  ],
  [
    'an error in the middle of data',
    'structured',
    () => pending(CMD.READ),
    chunk(1, data(0, '0102'), false) + chunk(0x8002, error(5, 'Bäd block', u64(OFFSET + 2))),
    r => [r.errno, r.message],
    [5, 'Bäd block'],
  ],
  [
    'an error without a text',
    'structured',
    () => pending(CMD.READ),
    chunk(0x8001, error(75, '')),
    r => [r.errno, r.message],
    [75, ''],
  ],
  [
    'the first of two errors',
    'structured',
    () => pending(CMD.WRITE),
    chunk(0x8001, error(28, 'full'), false) + chunk(0x8001, error(5, 'worse')),
    r => [r.errno, r.message],
    [28, 'full'],
  ],
  [
    'an error of unknown type',
    'structured',
    () => pending(CMD.WRITE),
    chunk(0x9999, error(5, 'new', '010203')),
    r => [r.errno, r.message],
    [5, 'new'],
  ],
  [
    'a text of 4096 bytes',
    'structured',
    () => pending(CMD.WRITE),
    chunk(0x8001, error(5, 'x'.repeat(4096))),
    r => r.message.length,
    4096,
  ],
  [
    'extents',
    'structured',
    () => pending(CMD.BLOCK_STATUS),
    chunk(5, status([4, 0], [8, 3], [100, 2])),
    r => r.extents,
    [
      { length: 4, hole: false, zero: false },
      { length: 8, hole: true, zero: true },
      { length: 100, hole: false, zero: true },
    ],
  ],
  [
    'more extents than are wanted',
    'structured',
    () => pending(CMD.BLOCK_STATUS),
    chunk(5, status([1, 0], [1, 1], [1, 0], [1, 1], [1, 0], [1, 1])),
    r => r.extents?.length,
    4,
  ],
  ['an extended empty chunk', 'extended', () => pending(CMD.FLUSH), wide(0, '', true, 0), r => r.errno, 0],
  [
    'extended data',
    'extended',
    () => pending(CMD.READ),
    wide(1, data(0, DATA.slice(0, 16)), false) + wide(2, hole(8, 8)),
    r => r.buffer.toString('hex'),
    `eeee${DATA.slice(0, 16)}${'00'.repeat(8)}eeee`,
  ],
  [
    'an extended error',
    'extended',
    () => pending(CMD.WRITE),
    wide(0x8001, error(1, 'never')),
    r => [r.errno, r.message],
    [1, 'never'],
  ],
  [
    'extended extents of more than 4 GiB',
    'extended',
    () => pending(CMD.BLOCK_STATUS, 2 ** 40),
    wide(6, wideStatus(2, [0x0304050607, 1], [0xffffffffffff, 2])),
    r => r.extents,
    [
      { length: 0x0304050607, hole: true, zero: false },
      { length: 0xffffffffffff, hole: false, zero: true },
    ],
  ],
  [
    'extended extents without their number',
    'extended',
    () => pending(CMD.BLOCK_STATUS),
    wide(6, wideStatus(0, [16, 0])),
    r => r.extents?.length,
    1,
  ],
]

describe('A reply is understood', () => {
  test.for(replies)('%s', ([, style, make, bytes, look, expected]) => {
    const request = make()
    expect(receive(style, request, bytes)).toBe(true)
    expect(look(request)).toEqual(expected)
  })

  test.for(replies)('however it is split: %s', ([, style, make, bytes, look, expected]) => {
    const all = hex(bytes)
    for (const direct of [false, true]) {
      for (let length = 1; length < 50; length++) {
        const request = make()
        expect(receive(style, request, all, [length], direct)).toBe(true)
        expect(look(request)).toEqual(expected)
      }
    }
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 9 }),
        fc.boolean(),
        (cuts, direct) => {
          const request = make()
          expect(receive(style, request, all, cuts, direct)).toBe(true)
          expect(look(request)).toEqual(expected)
        },
      ),
      { numRuns: 30 },
    )
  })

  test.for(replies)('and not before its end: %s', ([, style, make, bytes]) => {
    const all = hex(bytes)
    for (let length = 0; length < Math.min(all.length, 200); length++) {
      expect(receive(style, make(), all.subarray(0, length))).toBe(false)
    }
  })
})

const read = () => pending(CMD.READ)
const write = () => pending(CMD.WRITE)
const blockStatus = () => pending(CMD.BLOCK_STATUS)
const one = () => pending(CMD.BLOCK_STATUS, 16, CMD_FLAG.REQ_ONE)

describe('A server violates the protocol', () => {
  test.for<readonly [string, ReplyStyle, () => PendingRequest, string]>([
    ['by what is no reply', 'simple', write, '00000000 00000000 0000000000000000'],
    ['by a structured reply that was not agreed', 'simple', write, chunk(0, '')],
    ['by an extended reply that was not agreed', 'structured', write, wide(0, '')],
    ['by a simple reply to a READ where structured ones were agreed', 'structured', read, simple() + DATA],
    ['by a simple error to a READ where structured ones were agreed', 'structured', read, simple(22)],
    ['by a simple reply where extended ones were agreed', 'extended', write, `${simple()}${'00'.repeat(16)}`],
    [
      'by a structured reply where extended ones were agreed',
      'extended',
      write,
      `${chunk(0, '')}${'00'.repeat(12)}`,
    ],
    ['by a cookie that was not sent', 'simple', write, simple(0, '0a0b0c0d 00000004')],
    ['by a cookie whose first half differs', 'structured', write, chunk(0, '', true, '0a0b0c0e 00000003')],
    ['by a second answer', 'structured', write, chunk(0, '') + chunk(0, '')],
    ['by a simple reply after chunks', 'structured', write, chunk(0x8001, error(5, ''), false) + simple()],
    ['by a simple reply to BLOCK_STATUS', 'structured', blockStatus, simple()],
    ['by a chunk of unknown type', 'structured', write, chunk(3, '')],
    ['by data that nobody asked for', 'structured', write, chunk(1, data(0, '01'))],
    ['by a hole that nobody asked for', 'structured', write, chunk(2, hole(0, 1))],
    ['by a status that nobody asked for', 'structured', read, chunk(5, status([16, 0]))],
    ['by an empty chunk that is not the last', 'structured', write, chunk(0, '', false)],
    ['by an empty chunk with a payload', 'structured', write, chunk(0, '00')],
    ['by more data than was asked for (CVE-2017-2630)', 'structured', read, chunk(1, data(0, `${DATA}00`))],
    ['by a chunk of 4 GiB', 'structured', read, `668e33ef 0001 0001 ${COOKIE} ffffffff`],
    [
      'by a chunk of 2^64-1 bytes',
      'extended',
      read,
      `6e8a278c 0001 0001 ${COOKIE} ${u64(OFFSET)} ffffffffffffffff`,
    ],
    ['by data without bytes', 'structured', read, chunk(1, data(0, ''))],
    ['by data in front of what was asked for', 'structured', read, chunk(1, data(-1, '0102'))],
    ['by data behind what was asked for', 'structured', read, chunk(1, data(16, '01'))],
    ['by data across the end', 'structured', read, chunk(1, data(15, '0102'))],
    ['by data at 2^64-1', 'structured', read, chunk(1, 'ffffffffffffffff 01')],
    ['by a hole without bytes', 'structured', read, chunk(2, hole(0, 0))],
    ['by a hole that is too long', 'structured', read, chunk(2, hole(0, 17))],
    ['by a hole of 4 GiB', 'structured', read, chunk(2, hole(1, 0xffffffff))],
    ['by a hole of the wrong form', 'structured', read, chunk(2, `${hole(0, 16)}00`)],
    [
      'by the same data twice',
      'structured',
      read,
      chunk(1, data(0, '0102'), false) + chunk(1, data(0, '0102'), false),
    ],
    [
      'by overlapping data',
      'structured',
      read,
      chunk(1, data(4, '01020304'), false) + chunk(1, data(2, '010203'), false),
    ],
    [
      'by a hole over data',
      'structured',
      read,
      chunk(1, data(4, '01020304'), false) + chunk(2, hole(0, 5), false),
    ],
    ['by data that is missing at the end', 'structured', read, chunk(1, data(0, DATA.slice(2)))],
    [
      'by data that is missing in the middle',
      'structured',
      read,
      chunk(1, data(8, DATA.slice(16)), false) + chunk(1, data(0, DATA.slice(0, 14))),
    ],
    ['by nothing for a READ', 'structured', read, chunk(0, '')],
    ['by nothing for a BLOCK_STATUS', 'structured', blockStatus, chunk(0, '')],
    ['by extents without bytes (CVE-2023-5871)', 'structured', blockStatus, chunk(5, status([0, 0]))],
    ['by an empty last extent', 'structured', blockStatus, chunk(5, status([4, 0], [0, 0]))],
    ['by extents beyond the range', 'structured', blockStatus, chunk(5, status([16, 0], [1, 0]))],
    ['by a status without extents', 'structured', blockStatus, chunk(5, '00000007')],
    ['by a torn extent', 'structured', blockStatus, chunk(5, `${status([4, 0])}00000001`)],
    ['by another context', 'structured', blockStatus, chunk(5, '00000008 00000010 00000000')],
    [
      'by the same status twice',
      'structured',
      blockStatus,
      chunk(5, status([4, 0]), false) + chunk(5, status([4, 0])),
    ],
    ['by two extents where one was asked for', 'structured', one, chunk(5, status([4, 0], [4, 0]))],
    ['by one extent that is longer than was asked for', 'structured', one, chunk(5, status([17, 0]))],
    ['by a narrow status after extended headers', 'extended', blockStatus, wide(5, status([16, 0]))],
    [
      'by a wide status without extended headers',
      'structured',
      blockStatus,
      chunk(6, wideStatus(1, [16, 0])),
    ],
    ['by a wrong number of extents', 'extended', blockStatus, wide(6, wideStatus(2, [16, 0]))],
    [
      'by an extent of 2^64 minus a bit and one more',
      'extended',
      blockStatus,
      wide(6, `00000007 00000002 ${'ff'.repeat(8)} ${u64(0)} ${u64(1)} ${u64(0)}`),
    ],
    ['by another offset than that of the request', 'extended', write, wide(0, '', true, OFFSET + 1)],
    ['by an error without an error', 'structured', write, chunk(0x8001, error(0, ''))],
    ['by an error that is too short', 'structured', write, chunk(0x8001, '00000005 00')],
    ['by an error of 2^32-1 bytes', 'structured', write, `668e33ef 0001 8001 ${COOKIE} ffffffff`],
    [
      'by an error of unknown type that is very long',
      'structured',
      write,
      `668e33ef 0001 9999 ${COOKIE} 00100000`,
    ],
    ['by a text that is longer than its chunk', 'structured', write, chunk(0x8001, '00000005 0003 6162')],
    ['by a text that is shorter than its chunk', 'structured', write, chunk(0x8001, '00000005 0001 6162')],
    ['by a text of 4097 bytes', 'structured', write, chunk(0x8001, error(5, 'x'.repeat(4097)))],
    [
      'by a long text in an error of unknown type',
      'structured',
      write,
      chunk(0x9999, error(5, 'x'.repeat(4097))),
    ],
    [
      'by an error in front of what was asked for',
      'structured',
      write,
      chunk(0x8002, error(5, '', u64(OFFSET - 1))),
    ],
    [
      'by an error behind what was asked for',
      'structured',
      write,
      chunk(0x8002, error(5, '', u64(OFFSET + 16))),
    ],
    ['by an error with half an offset', 'structured', write, chunk(0x8002, error(5, 'abcd', '00000000'))],
    ['by errors without end', 'structured', write, chunk(0x8001, error(5, 'no'), false).repeat(65)],
  ])('%s', ([, style, make, bytes]) => {
    expect(() => receive(style, make(), bytes)).toThrow(ServerViolation)
    expect(() => receive(style, make(), bytes, [1])).toThrow(ServerViolation)
    const request = make()
    expect(() => receive(style, request, bytes, [5], true)).toThrow(ServerViolation)
    // Whatever came, nothing was put beside the caller's range.
    if (request.command === CMD.READ) {
      expect([...request.buffer.subarray(0, 2), ...request.buffer.subarray(18)]).toEqual([
        0xee, 0xee, 0xee, 0xee,
      ])
    }
  })

  test('by single bytes of data in more pieces than are followed', () => {
    const request = pending(CMD.READ, 5000)
    const pieces = Array.from({ length: 2000 }, (_, index) => chunk(1, data(2 * index + 1, '01'), false))
    expect(() => receive('structured', request, pieces.join(''))).toThrow(ServerViolation)
  })

  test('or not: whatever it sends, nothing else is thrown and nothing is written beside the range', () => {
    const styles = ['simple', 'structured', 'extended'] as const
    const commands = [CMD.READ, CMD.WRITE, CMD.BLOCK_STATUS, CMD.FLUSH]
    const part = fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map(bytes => Buffer.from(bytes).toString('hex')),
      fc.constantFrom(...replies.map(([, , , bytes]) => bytes)),
      fc
        .tuple(
          fc.constantFrom(0, 1, 2, 5, 6, 0x8001, 0x8002, 0x9999),
          fc.uint8Array({ maxLength: 24 }),
          fc.boolean(),
        )
        .map(([type, bytes, isLast]) => chunk(type, Buffer.from(bytes).toString('hex'), isLast)),
      fc
        .tuple(fc.constantFrom(0, 1, 2, 6, 0x8001), fc.uint8Array({ maxLength: 24 }), fc.boolean())
        .map(([type, bytes, isLast]) => wide(type, Buffer.from(bytes).toString('hex'), isLast)),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...styles),
        fc.constantFrom(...commands),
        fc.array(part, { maxLength: 4 }),
        fc.integer({ min: 1, max: 50 }),
        (style, command, parts, cut) => {
          const outcome = (cuts: readonly number[], direct: boolean) => {
            const request = pending(command)
            try {
              return { done: receive(style, request, parts.join(''), cuts, direct), request }
            } catch (thrown) {
              expect(thrown).toBeInstanceOf(ServerViolation)
              return { done: String(thrown), request }
            }
          }
          const whole = outcome([], false)
          expect(outcome([cut], true)).toEqual(whole)
          const { buffer } = whole.request
          if (command === CMD.READ) expect(buffer.readUInt16BE(0) + buffer.readUInt16BE(18)).toBe(2 * 0xeeee)
        },
      ),
      { numRuns: 3000 },
    )
  })
})

describe('A request that is sent again', () => {
  let extents: ReportedExtent[]
  beforeEach(() => {
    extents = []
  })

  test('starts from the beginning', () => {
    const request = pending(CMD.BLOCK_STATUS)
    request.extents = extents
    receive('structured', request, chunk(5, status([4, 0], [4, 1]), false))
    expect(extents).toHaveLength(2)
    request.expectReply()
    expect(extents).toHaveLength(0)
    expect(receive('structured', request, chunk(5, status([16, 0])))).toBe(true)
    const torn = pending(CMD.READ)
    receive('structured', torn, chunk(1, data(4, '01020304'), false) + chunk(1, data(0, '0102'), false))
    torn.expectReply()
    expect(receive('structured', torn, chunk(1, data(0, DATA)))).toBe(true)
  })
})

test('Errors of the wire have names, and unknown ones mean EINVAL', () => {
  expect([1, 5, 12, 22, 28, 75, 95, 108, 42].map(wireErrorCode)).toEqual([
    ...['EPERM', 'EIO', 'ENOMEM', 'EINVAL', 'ENOSPC', 'EOVERFLOW', 'ENOTSUP', 'ESHUTDOWN', 'EINVAL'],
  ])
})
