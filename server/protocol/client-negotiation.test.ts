import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ServerViolation } from './client-handshake.ts'
import {
  HandshakeUnsupported,
  listExports,
  MAX_LISTED,
  type Negotiation,
  OptionRefused,
  openExport,
  probeExport,
} from './client-negotiation.ts'
import { NegotiationFeed } from './negotiation-feed.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/[\s|]/g, ''), 'hex')
const u32 = (value: number) => value.toString(16).padStart(8, '0')
const ascii = (text: string) => Buffer.from(text).toString('hex')

// What servers send, as the specification lays it out.
const GREETING = '4e42444d41474943 49484156454f5054 0003'
const reply = (option: number, type: number, payload = '') =>
  `0003e889045565a9 ${u32(option)} ${u32(type)} ${u32(hex(payload).length)} ${payload}`
const ack = (option: number) => reply(option, 1)
const unsup = (option: number, text = '') => reply(option, 0x80000001, ascii(text))
const exportInfo = '0000 0000000000100000 04ed'
const info = (option: number) => reply(option, 3, exportInfo)
const context = reply(10, 4, `00000007 ${ascii('base:allocation')}`)

// What the client sends.
const FLAGS = '00000003'
const option = (number: number, payload = '') =>
  `49484156454f5054 ${u32(number)} ${u32(hex(payload).length)} ${payload}`
const go = (number: number, name: string) =>
  option(number, `${u32(name.length)} ${ascii(name)} 0003 0001 0002 0003`)
const metaContext = (name: string) =>
  option(10, `${u32(name.length)} ${ascii(name)} 00000001 0000000f ${ascii('base:allocation')}`)

interface Conversation<Result> {
  readonly sent: string
  readonly value: Result | undefined
  readonly rest: number
}

/** Lets a negotiation read these bytes, cut into pieces of these lengths. Bytes in an array of two have TLS in between. */
function converse<Result>(
  negotiation: Negotiation<Result>,
  server: string | readonly [string, string],
  cuts: readonly number[] = [],
): Conversation<Result> {
  const sent: Buffer[] = []
  const feed = new NegotiationFeed(negotiation, {
    send: bytes => sent.push(bytes),
    startTls: () => sent.push(Buffer.from('TLS')),
  })
  let rest = 0
  const receive = (bytes: Buffer) => {
    let at = 0
    let turn = 0
    while (at < bytes.length) {
      const end = Math.min(
        bytes.length,
        at + (cuts.length === 0 ? bytes.length : (cuts[turn++ % cuts.length] ?? 1)),
      )
      // In a buffer of its own that is spoiled afterwards: nothing may be kept of it.
      const piece = Buffer.from(bytes.subarray(at, end))
      rest = piece.length - feed.receive(piece, 0, piece.length)
      piece.fill(0xaa)
      at = end
    }
  }
  feed.start()
  if (typeof server === 'string') receive(hex(server))
  else {
    receive(hex(server[0]))
    feed.tlsStarted()
    receive(hex(server[1]))
  }
  return { sent: Buffer.concat(sent).toString('hex'), value: feed.outcome?.value, rest }
}

const plain = { tls: false }
const compact = (text: string) => hex(text).toString('hex')

const extended = {
  client: FLAGS + option(11) + metaContext('disk') + go(7, 'disk'),
  server:
    GREETING +
    ack(11) +
    context +
    ack(10) +
    info(7) +
    reply(7, 3, `0001 ${ascii('canonical')}`) +
    reply(7, 3, `0002 ${ascii('said of it')}`) +
    reply(7, 3, '0003 00000200 00001000 02000000') +
    reply(7, 3, '1234 00') +
    ack(7),
  value: {
    size: 0x100000,
    flags: 0x04ed,
    canonicalName: 'canonical',
    description: 'said of it',
    blockSizes: { minimum: 512, preferred: 4096, maximum: 0x2000000 },
    replies: 'extended',
    allocationContext: 7,
  },
}

const nothing = {
  canonicalName: undefined,
  description: undefined,
  blockSizes: undefined,
  allocationContext: undefined,
}

describe('An export is opened', () => {
  test('with extended headers', () => {
    const { sent, value, rest } = converse(openExport('disk', plain), extended.server)
    expect(sent).toBe(compact(extended.client))
    expect(value).toEqual(extended.value)
    expect(rest).toBe(0)
  })

  test('with structured replies where the server has no extended headers', () => {
    const server = GREETING + unsup(11, 'what?') + ack(8) + context + ack(10) + info(7) + ack(7)
    const { sent, value } = converse(openExport('', plain), server)
    expect(sent).toBe(compact(FLAGS + option(11) + option(8) + metaContext('') + go(7, '')))
    expect(value).toEqual({
      ...nothing,
      size: 0x100000,
      flags: 0x04ed,
      replies: 'structured',
      allocationContext: 7,
    })
  })

  test('without a metadata context that the server does not have', () => {
    for (const answer of [ack(10), unsup(10), reply(10, 0x80000006, ascii('no'))]) {
      const { value } = converse(openExport('', plain), GREETING + ack(11) + answer + info(7) + ack(7))
      expect(value).toMatchObject({ replies: 'extended', allocationContext: undefined })
    }
  })

  test('and a context that was selected before the option failed does not count', () => {
    const server = GREETING + ack(11) + context + unsup(10) + info(7) + ack(7)
    expect(converse(openExport('', plain), server).value).toMatchObject({ allocationContext: undefined })
  })

  test('with simple replies where the server has nothing else', () => {
    const { sent, value } = converse(
      openExport('x', plain),
      GREETING + unsup(11) + unsup(8) + info(7) + ack(7),
    )
    expect(sent).toBe(compact(FLAGS + option(11) + option(8) + go(7, 'x')))
    expect(value).toMatchObject({ replies: 'simple' })
  })

  test('by EXPORT_NAME where the server has no GO', () => {
    const server = `${GREETING + unsup(11) + ack(8) + context + ack(10) + unsup(7)} 0000000000100000 0003`
    const { sent, value, rest } = converse(openExport('x', plain), server)
    expect(sent).toBe(
      compact(FLAGS + option(11) + option(8) + metaContext('x') + go(7, 'x') + option(1, ascii('x'))),
    )
    expect(value).toEqual({
      ...nothing,
      size: 0x100000,
      flags: 3,
      replies: 'structured',
      allocationContext: 7,
    })
    expect(rest).toBe(0)
  })

  test('by EXPORT_NAME with 124 zeroes where the server wants to send them', () => {
    const greeting = '4e42444d41474943 49484156454f5054 0001'
    const server = `${greeting + unsup(11) + unsup(8) + unsup(7)} 0000000000100000 0003 ${'00'.repeat(124)}`
    const { sent, value, rest } = converse(openExport('x', plain), server)
    expect(sent).toBe(compact(`00000001${option(11)}${option(8)}${go(7, 'x')}${option(1, ascii('x'))}`))
    expect(value).toMatchObject({ size: 0x100000 })
    expect(rest).toBe(0)
  })

  test('by newstyle that is not fixed, which has but one option', () => {
    const server = `4e42444d41474943 49484156454f5054 0000 0000000000100000 0003 ${'00'.repeat(124)}`
    const { sent, value, rest } = converse(openExport('x', plain), server)
    expect(sent).toBe(compact(`00000000${option(1, ascii('x'))}`))
    expect(value).toEqual({ ...nothing, size: 0x100000, flags: 3, replies: 'simple' })
    expect(rest).toBe(0)
  })

  test('by oldstyle, where nothing is sent', () => {
    const server = `4e42444d41474943 0000420281861253 0000000000100000 00000003 ${'00'.repeat(124)}`
    const { sent, value, rest } = converse(openExport('', plain), server)
    expect(sent).toBe('')
    expect(value).toEqual({ ...nothing, size: 0x100000, flags: 3, replies: 'simple' })
    expect(rest).toBe(0)
  })

  test('by TLS, which is agreed on before everything else', () => {
    const { sent, value } = converse(openExport('disk', { tls: true }), [
      GREETING + ack(5),
      extended.server.slice(GREETING.length),
    ])
    const begun = compact(FLAGS + option(5)) + ascii('TLS')
    expect(sent).toBe(begun + compact(extended.client.slice(FLAGS.length)))
    expect(value).toEqual(extended.value)
  })

  test('however its bytes are split', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 20 }), cuts => {
        const { sent, value, rest } = converse(openExport('disk', plain), extended.server, cuts)
        expect({ sent, value, rest }).toEqual({
          sent: compact(extended.client),
          value: extended.value,
          rest: 0,
        })
      }),
    )
    for (let length = 1; length < 40; length++) {
      expect(converse(openExport('disk', plain), extended.server, [length]).value).toEqual(extended.value)
    }
  })

  test('and what follows is left to the next', () => {
    expect(converse(openExport('disk', plain), `${extended.server}0102`).rest).toBe(2)
  })
})

describe('An export is probed', () => {
  test('by INFO, and the server is left politely', () => {
    const server = GREETING + unsup(11) + ack(8) + context + ack(10) + info(6) + ack(6)
    const { sent, value } = converse(probeExport('x', plain), server)
    expect(sent).toBe(compact(FLAGS + option(11) + option(8) + metaContext('x') + go(6, 'x') + option(2)))
    expect(value).toMatchObject({ size: 0x100000, replies: 'structured' })
  })

  test('but never opened where the server has no INFO', () => {
    const server = GREETING + unsup(11) + unsup(8) + unsup(6)
    expect(() => converse(probeExport('x', plain), server)).toThrow(HandshakeUnsupported)
    const newstyle = '4e42444d41474943 49484156454f5054 0000'
    expect(() => converse(probeExport('x', plain), newstyle)).toThrow(HandshakeUnsupported)
  })
})

describe('Exports are listed', () => {
  const entry = (name: string, description = '') =>
    reply(3, 2, `${u32(name.length)} ${ascii(name)} ${ascii(description)}`)

  test('by LIST', () => {
    const { sent, value } = converse(listExports(plain), GREETING + entry('a', 'first') + entry('') + ack(3))
    expect(sent).toBe(compact(FLAGS + option(3) + option(2)))
    expect(value).toEqual([
      { name: 'a', description: 'first' },
      { name: '', description: '' },
    ])
  })

  test('of oldstyle, which has one without a name', () => {
    // Who forwarded to such a server had to answer LIST by an error.
    const server = `4e42444d41474943 0000420281861253 0000000000100000 00000003 ${'00'.repeat(124)}`
    const { sent, value, rest } = converse(listExports(plain), server)
    expect({ sent, value, rest }).toEqual({ sent: '', value: [{ name: '', description: '' }], rest: 0 })
  })

  test('not of newstyle that is not fixed, where any name may be right', () => {
    const server = '4e42444d41474943 49484156454f5054 0000'
    expect(() => converse(listExports(plain), server)).toThrow(HandshakeUnsupported)
  })

  test('but not without end', () => {
    const feed = new NegotiationFeed(listExports(plain), { send: () => undefined, startTls: () => undefined })
    feed.start()
    const greeting = hex(GREETING)
    feed.receive(greeting, 0, greeting.length)
    const one = hex(entry('a'))
    for (let count = 0; count < MAX_LISTED; count++) feed.receive(one, 0, one.length)
    expect(() => feed.receive(one, 0, one.length)).toThrow(ServerViolation)
  })
})

describe('An option is refused', () => {
  test('with the reason of the server', () => {
    const server = GREETING + unsup(11) + unsup(8) + reply(7, 0x80000006, ascii('No such export'))
    const open = () => converse(openExport('x', plain), server)
    expect(open).toThrow(OptionRefused)
    expect(open).toThrow(expect.objectContaining({ option: 7, type: 0x80000006, text: 'No such export' }))
  })

  test('where the server insists on TLS, at the first option', () => {
    const server = GREETING + reply(11, 0x80000005, ascii('TLS first'))
    expect(() => converse(openExport('x', plain), server)).toThrow(
      expect.objectContaining({ type: 0x80000005 }),
    )
  })

  test('where the server is shutting down', () => {
    const server = GREETING + unsup(11) + reply(8, 0x80000007)
    expect(() => converse(openExport('x', plain), server)).toThrow(OptionRefused)
  })

  test('after extended headers there is no way back to EXPORT_NAME', () => {
    expect(() => converse(openExport('x', plain), GREETING + ack(11) + unsup(10) + unsup(7))).toThrow(
      OptionRefused,
    )
  })
})

describe('Without TLS, where it was asked for, there is no connection (CVE-2019-14842)', () => {
  test.for([
    ['from a server that refuses it', GREETING + unsup(5), OptionRefused],
    ['from newstyle that is not fixed', '4e42444d41474943 49484156454f5054 0000', HandshakeUnsupported],
    ['from oldstyle', `4e42444d41474943 0000420281861253 ${'00'.repeat(136)}`, HandshakeUnsupported],
    ['from a server that forgets its flags', '4e42444d41474943 49484156454f5054 0002', HandshakeUnsupported],
  ] as const)('%s', ([, server, error]) => {
    for (const negotiate of [openExport('', { tls: true }), probeExport('', { tls: true })]) {
      expect(() => converse(negotiate, server)).toThrow(error)
    }
  })

  test('and bytes in the clear behind its agreement end it', () => {
    const server = GREETING + ack(5) + ack(11)
    expect(() => converse(openExport('', { tls: true }), server)).toThrow(ServerViolation)
    // Also when they come later than the agreement.
    expect(() => converse(openExport('', { tls: true }), server, [1])).toThrow(ServerViolation)
  })
})

describe('A server violates the protocol', () => {
  const start = GREETING + unsup(11) + ack(8)
  test.for([
    ['by a reply that does not belong to its option', GREETING + reply(11, 3, exportInfo)],
    ['by a reply of an unknown type', start + unsup(10) + reply(7, 0x01020304)],
    ['by an ACK with a payload', GREETING + reply(11, 1, '00')],
    ['by a GO without a size', start + unsup(10) + ack(7)],
    ['by a size that is told twice', start + unsup(10) + info(7) + info(7)],
    ['by a context that is selected twice', start + context + context],
    ['by replies without end', start + unsup(10) + info(7) + reply(7, 3, '1234').repeat(64)],
    ['by an answer to an option that was not sent', GREETING + ack(8)],
  ] as const)('%s', ([, server]) => {
    expect(() => converse(openExport('x', plain), server)).toThrow(ServerViolation)
    expect(() => converse(openExport('x', plain), server, [1])).toThrow(ServerViolation)
  })

  test('at any place, and the client neither hangs on to memory nor throws anything else', () => {
    const good = hex(extended.server)
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.uint8Array({ minLength: 1, maxLength: 60 }), (place, noise) => {
        const bytes = Buffer.concat([good.subarray(0, place), noise, good.subarray(place)])
        try {
          converse(openExport('disk', plain), bytes.toString('hex'), [7])
        } catch (error) {
          const known = [ServerViolation, OptionRefused, HandshakeUnsupported]
          expect(known.some(type => error instanceof type)).toBe(true)
        }
      }),
      { numRuns: 1000 },
    )
  })
})
