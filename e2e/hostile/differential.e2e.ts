/**
 * The same hostile options and requests for us, nbdkit and qemu-nbd. Where we do otherwise than one of them is listed
 * here and in docs/protocol.md, with the reason; a difference that is not listed is a failure, and so is one that is
 * listed and is none any more.
 */
import { spawn } from 'node:child_process'
import { mkdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkout, needPrograms, type Scratch, type ServerProcess, scratch, startServer } from '../harness.ts'
import {
  type Agreed,
  bytes,
  contexts,
  counted,
  goFor,
  option,
  type RequestFields,
  tryOptions,
  tryRequest,
  u16,
  u32,
} from './raw-client.ts'

const MIB = 2 ** 20
const SIZE = 40 * MIB
const DISK = 'disk'

const [EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED] = [
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
]
const [READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] = [0, 1, 2, 3, 4, 5, 6, 7]
const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 }

const SERVERS = ['ours', 'nbdkit', 'qemu-nbd'] as const
type ServerName = (typeof SERVERS)[number]
type Outcomes = Readonly<Record<ServerName, string>>

/** How a server that is to be tried is reached: by unix sockets, one for a disk that may only be read. */
const sockets = (server: ServerName) => ({
  writable: join(folder.path, `${server}.sock`),
  readOnly: join(folder.path, `${server}-ro.sock`),
})

let folder: Scratch
const ours: ServerProcess[] = []
const foreign: AsyncDisposable[] = []

/** A foreign server that is killed with the tests. */
async function startForeign(program: string, socket: string, ...args: string[]): Promise<void> {
  const child = spawn(program, args, { stdio: 'ignore' })
  const ended = new Promise(resolve => child.once('exit', resolve).once('error', resolve))
  foreign.push({
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  })
  for (let tries = 0; tries < 300; tries++) {
    const answers = await new Promise<boolean>(resolve => {
      const probe = connect({ path: socket })
      probe.once('connect', () => resolve(true)).once('error', () => resolve(false))
      probe.once('connect', () => probe.destroy())
    })
    if (answers) return
    await sleep(50)
  }
  throw new Error(`${program} does not listen on ${socket}.`)
}

beforeAll(async () => {
  folder = await scratch()
  await mkdir(join(folder.path, 'disks'))
  for (const name of [`disks/${DISK}`, 'nbdkit', 'qemu']) {
    await writeFile(join(folder.path, name), '')
    await truncate(join(folder.path, name), SIZE)
  }
  const disks = ['--dir', join(folder.path, 'disks'), '--size', String(SIZE), '--wait']
  for (const [socket, readOnly] of [
    [sockets('ours').writable, []],
    [sockets('ours').readOnly, ['--read-only']],
  ] as const) {
    ours.push(
      await startServer([
        ...disks,
        '--command',
        'truncate -s "$size" "$disk"',
        ...readOnly,
        '--unix',
        socket,
      ]),
    )
  }
})

afterAll(async () => {
  for (const server of foreign) await server[Symbol.asyncDispose]()
  for (const server of ours) expect(await server.stop()).toBe(0)
  await folder?.[Symbol.asyncDispose]()
})

async function startPeers(): Promise<void> {
  if (foreign.length > 0) return
  for (const readOnly of [false, true]) {
    const kind = readOnly ? 'readOnly' : 'writable'
    const [kit, qemu] = [sockets('nbdkit')[kind], sockets('qemu-nbd')[kind]]
    const file = (name: string) => join(folder.path, name)
    await startForeign('nbdkit', kit, '-f', ...(readOnly ? ['-r'] : []), '-U', kit, 'file', file('nbdkit'))
    const args = ['-t', '-e', '8', '-f', 'raw', ...(readOnly ? ['-r'] : []), '-x', DISK, '-k', qemu]
    await startForeign('qemu-nbd', qemu, ...args, file('qemu'))
  }
}

/** Tries something on all three servers. */
async function onEach(attempt: (server: ServerName) => Promise<string>): Promise<Outcomes> {
  await startPeers()
  const [a, b, c] = await Promise.all(SERVERS.map(attempt))
  return { ours: a ?? '', nbdkit: b ?? '', 'qemu-nbd': c ?? '' }
}

interface Difference {
  readonly outcomes: Outcomes
  readonly why: string
}

/** Where we do otherwise than nbdkit 1.32 or qemu-nbd 7.2, and why. */
const DIFFERENCES: Readonly<Record<string, Difference>> = {
  'unknown option with 64 KiB and a byte': {
    outcomes: { ours: 'closed', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'No option needs more than 64 KiB; nbdkit and qemu-nbd take up to 64 and 32 MiB of it.',
  },
  '40 unknown options': {
    outcomes: { ours: 'UNSUP', nbdkit: 'UNSUP, closed', 'qemu-nbd': 'UNSUP' },
    why: '256 options are allowed, so that a client may ask for many names; nbdkit allows 32.',
  },
  '300 unknown options': {
    outcomes: { ours: 'UNSUP, closed', nbdkit: 'UNSUP, closed', 'qemu-nbd': 'UNSUP' },
    why: 'A handshake has to end. qemu-nbd sets no bound.',
  },
  'another option than EXPORT_NAME without fixed newstyle': {
    outcomes: { ours: 'closed', nbdkit: 'INVALID', 'qemu-nbd': 'closed' },
    why: "Without it the server must hang up; nbdkit answers, and leaves the option's data to be read as the next one.",
  },
  'LIST twice': {
    outcomes: {
      ours: 'SERVER, ACK, SERVER, ACK',
      nbdkit: 'SERVER, ACK, INVALID',
      'qemu-nbd': 'SERVER, ACK, SERVER, ACK',
    },
    why: 'Nothing forbids it; the bound on options bounds this too.',
  },
  'STRUCTURED_REPLY twice': {
    outcomes: { ours: 'ACK', nbdkit: 'ACK', 'qemu-nbd': 'ACK, INVALID' },
    why: 'Nothing forbids it, and it changes nothing.',
  },
  EXTENDED_HEADERS: {
    outcomes: { ours: 'ACK', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'Neither of these versions knows it.',
  },
  'EXTENDED_HEADERS with data': {
    outcomes: { ours: 'INVALID', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'Neither of these versions knows it.',
  },
  'INFO with the name ../x': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'Names are checked before a backend sees them; nbdkit leaves that to its plugin, which here has one disk for all names.',
  },
  'INFO with a name that is no UTF-8': {
    outcomes: { ours: 'INVALID', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'Names are UTF-8 by the protocol; nbdkit does not look, and qemu-nbd has no such export.',
  },
  'INFO with a name of 4096 bytes': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'A name has at most 255 bytes here; the plugin of nbdkit has one disk for all names.',
  },
  'INFO with a name of 256 bytes': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'As above.',
  },
  'LIST_META_CONTEXT before STRUCTURED_REPLY': {
    outcomes: { ours: 'INVALID', nbdkit: 'META_CONTEXT, ACK', 'qemu-nbd': 'META_CONTEXT, ACK' },
    why: 'Contexts are of no use without it, and the protocol lets a server say so.',
  },
  'SET_META_CONTEXT with bytes behind its end': {
    outcomes: {
      ours: 'ACK, INVALID',
      nbdkit: 'ACK, META_CONTEXT, ACK',
      'qemu-nbd': 'ACK, META_CONTEXT, ACK, closed',
    },
    why: 'Malformed is INVALID. nbdkit ignores the rest; qemu-nbd reads it as the next option.',
  },
  'WRITE past the end': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'WRITE at 2^64-1': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'WRITE_ZEROES past the end': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'READ of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'The protocol leaves it open; nothing is done without fail.',
  },
  'READ of no bytes, structured': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'WRITE of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'ENOSPC', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'TRIM of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'CACHE of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'WRITE_ZEROES of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'ENOSPC', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'READ of 32 MiB and a byte': {
    outcomes: { ours: 'EINVAL', nbdkit: 'ok', 'qemu-nbd': 'EINVAL' },
    why: '32 MiB is the maximum that is announced; nbdkit announces none and takes 64 MiB.',
  },
  'WRITE of 32 MiB and a byte': {
    outcomes: { ours: 'EINVAL', nbdkit: 'ok', 'qemu-nbd': 'closed' },
    why: 'As above; what is too long is read and dropped, so that the client can go on.',
  },
  'FLUSH with offset and length': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'They mean nothing there, and refusing to make data durable for that would help nobody.',
  },
  'FLUSH past the end': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'EINVAL' },
    why: 'As above.',
  },
  'WRITE, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'WRITE past the end, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'TRIM, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'WRITE_ZEROES, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
}

function judge(what: string, outcomes: Outcomes): void {
  const isSame = outcomes.nbdkit === outcomes.ours && outcomes['qemu-nbd'] === outcomes.ours
  const listed = DIFFERENCES[what]
  if (listed === undefined) {
    expect(isSame, `not listed: ${JSON.stringify(outcomes)}`).toBe(true)
    return
  }
  expect(outcomes).toEqual(listed.outcomes)
  expect(isSame, 'listed, and no difference').toBe(false)
}

const good = option(STRUCTURED)
const flood = (count: number, one: Uint8Array) => bytes(...Array.from({ length: count }, () => one))

const OPTIONS: Readonly<Record<string, { readonly sent: Uint8Array; readonly flags?: number }>> = {
  'unknown option with 1000 bytes': { sent: option(99, Buffer.alloc(1000, 0x49)) },
  'option 0': { sent: option(0) },
  'option 2^32-1': { sent: option(0xffff_ffff) },
  PEEK_EXPORT: { sent: option(PEEK) },
  'unknown option with 64 KiB': { sent: option(99, Buffer.alloc(65_536)) },
  'unknown option with 64 KiB and a byte': { sent: option(99, Buffer.alloc(65_537)) },
  'option that announces 4 GiB': { sent: option(99, Buffer.alloc(64), 0xffff_ffff) },
  'option with a wrong magic': { sent: bytes('IHAVEOPS', u32(LIST), u32(0)) },
  '40 unknown options': { sent: flood(40, option(99)) },
  '300 unknown options': { sent: flood(300, option(99)) },
  'client flags that are unknown': { sent: good, flags: 7 },
  'another option than EXPORT_NAME without fixed newstyle': { sent: option(LIST), flags: 0 },
  'LIST with data': { sent: option(LIST, Buffer.alloc(4)) },
  'LIST twice': { sent: flood(2, option(LIST)) },
  'STRUCTURED_REPLY with data': { sent: option(STRUCTURED, Buffer.alloc(4)) },
  'STRUCTURED_REPLY twice': { sent: flood(2, option(STRUCTURED)) },
  EXTENDED_HEADERS: { sent: option(EXTENDED) },
  'EXTENDED_HEADERS with data': { sent: option(EXTENDED, Buffer.alloc(4)) },
  'STARTTLS where TLS is off': { sent: option(STARTTLS) },
  'STARTTLS with data where TLS is off': { sent: option(STARTTLS, Buffer.alloc(4)) },
  ABORT: { sent: option(ABORT) },
  'ABORT with data': { sent: option(ABORT, Buffer.alloc(100)) },
  'INFO without data': { sent: option(INFO) },
  INFO: { sent: option(INFO, goFor(DISK)) },
  'INFO with all information and some that is unknown': {
    sent: option(INFO, goFor(DISK, 0, 1, 2, 3, 99, 0xffff)),
  },
  'GO with a name of 2^32-1 bytes': { sent: option(GO, bytes(u32(0xffff_ffff), DISK, u16(0))) },
  'GO with a name longer than the option': { sent: option(GO, bytes(u32(5), DISK)) },
  'GO with more information types than there are': { sent: option(GO, bytes(counted(DISK), u16(9), u16(0))) },
  'GO with bytes behind its end': { sent: option(GO, bytes(goFor(DISK), 'x')) },
  'GO with a name of 4097 bytes': { sent: option(GO, goFor('x'.repeat(4097))) },
  'INFO with a name of 4096 bytes': { sent: option(INFO, goFor('x'.repeat(4096))) },
  'INFO with a name of 256 bytes': { sent: option(INFO, goFor('x'.repeat(256))) },
  'GO with NUL in the name': { sent: option(GO, goFor('a\0b')) },
  'INFO with a name that is no UTF-8': { sent: option(INFO, goFor(Buffer.from([0x61, 0xff]))) },
  'INFO with the name ../x': { sent: option(INFO, goFor('../x')) },
  'EXPORT_NAME of 4097 bytes': { sent: option(EXPORT_NAME, Buffer.alloc(4097, 0x78)) },
  'SET_META_CONTEXT before STRUCTURED_REPLY': { sent: option(SET_META, contexts(DISK, 'base:allocation')) },
  'LIST_META_CONTEXT before STRUCTURED_REPLY': { sent: option(LIST_META, contexts(DISK)) },
  'SET_META_CONTEXT without data': { sent: bytes(good, option(SET_META)) },
  'SET_META_CONTEXT of base:': { sent: bytes(good, option(SET_META, contexts(DISK, 'base:'))) },
  'SET_META_CONTEXT of an unknown namespace': { sent: bytes(good, option(SET_META, contexts(DISK, 'x:y'))) },
  'SET_META_CONTEXT of base:allocation twice': {
    sent: bytes(good, option(SET_META, contexts(DISK, 'base:allocation', 'base:allocation'))),
  },
  'SET_META_CONTEXT with 2^32-1 queries': {
    sent: bytes(good, option(SET_META, bytes(counted(DISK), u32(0xffff_ffff)))),
  },
  'SET_META_CONTEXT with a query of 2^32-1 bytes': {
    sent: bytes(good, option(SET_META, bytes(counted(DISK), u32(1), u32(0xffff_ffff), 'x'))),
  },
  'SET_META_CONTEXT with bytes behind its end': {
    sent: bytes(good, option(SET_META, bytes(contexts(DISK, 'base:allocation'), 'x'))),
  },
  'LIST_META_CONTEXT without queries': { sent: bytes(good, option(LIST_META, contexts(DISK))) },
  'LIST_META_CONTEXT of base:': { sent: bytes(good, option(LIST_META, contexts(DISK, 'base:'))) },
}

test.for(Object.entries(OPTIONS))('Option: %s', async ([what, { sent, flags }], context) => {
  await needPrograms(context, 'nbdkit', 'qemu-nbd')
  judge(what, await onEach(server => tryOptions(sockets(server).writable, sent, flags)))
})

interface Attempt extends Agreed {
  readonly request: Uint8Array | { readonly type: number; readonly fields?: RequestFields }
  readonly readOnly?: boolean
}

const past = { offset: SIZE - 1, length: 2 }
const far = { offset: 2n ** 64n - 1n, length: 2 }
const allocation = { structured: true, allocation: true }
const pay = (length: number, fields: RequestFields = {}) => ({
  ...fields,
  length,
  payload: Buffer.alloc(length),
})

const REQUESTS: Readonly<Record<string, Attempt>> = {
  'READ past the end': { request: { type: READ, fields: past } },
  'READ past the end, structured': { request: { type: READ, fields: past }, structured: true },
  'READ at 2^64-1': { request: { type: READ, fields: far } },
  'WRITE past the end': { request: { type: WRITE, fields: pay(2, { offset: SIZE - 1 }) } },
  'WRITE at 2^64-1': { request: { type: WRITE, fields: pay(2, { offset: 2n ** 64n - 1n }) } },
  'TRIM past the end': { request: { type: TRIM, fields: past } },
  'CACHE past the end': { request: { type: CACHE, fields: past } },
  'WRITE_ZEROES past the end': { request: { type: WRITE_ZEROES, fields: past } },
  'BLOCK_STATUS past the end': { request: { type: BLOCK_STATUS, fields: past }, ...allocation },
  'TRIM of 2^32-1 bytes': { request: { type: TRIM, fields: { length: 0xffff_ffff } } },
  'READ of no bytes': { request: { type: READ } },
  'READ of no bytes, structured': { request: { type: READ }, structured: true },
  'WRITE of no bytes': { request: { type: WRITE } },
  'TRIM of no bytes': { request: { type: TRIM } },
  'CACHE of no bytes': { request: { type: CACHE } },
  'WRITE_ZEROES of no bytes': { request: { type: WRITE_ZEROES } },
  'BLOCK_STATUS of no bytes': { request: { type: BLOCK_STATUS }, ...allocation },
  'READ of 32 MiB and a byte': { request: { type: READ, fields: { length: 32 * MIB + 1 } } },
  'WRITE of 32 MiB and a byte': { request: { type: WRITE, fields: pay(32 * MIB + 1) } },
  'READ with an unknown flag': { request: { type: READ, fields: { flags: 0x8000, length: 512 } } },
  'WRITE with an unknown flag': { request: { type: WRITE, fields: pay(512, { flags: 0x8000 }) } },
  'WRITE with PAYLOAD_LEN': { request: { type: WRITE, fields: pay(512, { flags: FLAG.PAYLOAD_LEN }) } },
  'READ with NO_HOLE': { request: { type: READ, fields: { flags: FLAG.NO_HOLE, length: 512 } } },
  'READ with DF, simple replies': { request: { type: READ, fields: { flags: FLAG.DF, length: 512 } } },
  'WRITE with REQ_ONE': { request: { type: WRITE, fields: pay(512, { flags: FLAG.REQ_ONE }) } },
  'TRIM with FAST_ZERO': { request: { type: TRIM, fields: { flags: FLAG.FAST_ZERO, length: 512 } } },
  'READ with FUA': { request: { type: READ, fields: { flags: FLAG.FUA, length: 512 } } },
  'CACHE with FUA': { request: { type: CACHE, fields: { flags: FLAG.FUA, length: 512 } } },
  'FLUSH with FUA': { request: { type: FLUSH, fields: { flags: FLAG.FUA } } },
  'FLUSH with offset and length': { request: { type: FLUSH, fields: { offset: 512, length: 512 } } },
  'FLUSH past the end': { request: { type: FLUSH, fields: past } },
  'BLOCK_STATUS without a context': {
    request: { type: BLOCK_STATUS, fields: { length: 512 } },
    structured: true,
  },
  'BLOCK_STATUS with simple replies': { request: { type: BLOCK_STATUS, fields: { length: 512 } } },
  RESIZE: { request: { type: 8, fields: { offset: 2 * SIZE } } },
  'unknown command': { request: { type: 99, fields: { length: 512 } } },
  'unknown command, structured': { request: { type: 99, fields: { length: 512 } }, structured: true },
  DISC: { request: { type: DISC } },
  'request with a wrong magic': { request: Buffer.alloc(28, 0x25) },
  'WRITE, read-only': { request: { type: WRITE, fields: pay(512) }, readOnly: true },
  'WRITE past the end, read-only': {
    request: { type: WRITE, fields: pay(2, { offset: SIZE - 1 }) },
    readOnly: true,
  },
  'TRIM, read-only': { request: { type: TRIM, fields: { length: 512 } }, readOnly: true },
  'WRITE_ZEROES, read-only': { request: { type: WRITE_ZEROES, fields: { length: 512 } }, readOnly: true },
  'FLUSH, read-only': { request: { type: FLUSH }, readOnly: true },
}

test.for(Object.entries(REQUESTS))('Request: %s', async ([what, attempt], context) => {
  await needPrograms(context, 'nbdkit', 'qemu-nbd')
  const { request, readOnly = false, ...agreed } = attempt
  const kind = readOnly ? 'readOnly' : 'writable'
  judge(what, await onEach(server => tryRequest(sockets(server)[kind], DISK, agreed, request)))
})

/** The rows that docs/protocol.md has to have. */
const rowOf = (what: string, { outcomes, why }: Difference): string =>
  `| ${what} | ${SERVERS.map(server => outcomes[server]).join(' | ')} | ${why} |`

test('Every difference stands in docs/protocol.md, and every one there exists', async () => {
  const page = await readFile(join(checkout, 'docs/protocol.md'), 'utf8')
  const [, table = ''] = /\n\| sent \|[^\n]*\n\|---[^\n]*\n((?:\|[^\n]*\n)*)/.exec(page) ?? []
  expect(table.trimEnd().split('\n')).toEqual(
    Object.entries(DIFFERENCES).map(([what, difference]) => rowOf(what, difference)),
  )
})

test('Nothing is listed that is not tried', () => {
  expect(Object.keys(DIFFERENCES).filter(what => !(what in OPTIONS || what in REQUESTS))).toEqual([])
})
