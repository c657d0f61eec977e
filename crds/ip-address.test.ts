import { BlockList, isIP } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { contains, parseAddress, parseNetwork } from './ip-address.ts'

const octets = fc.array(fc.nat(255), { minLength: 4, maxLength: 4 })
const ipv4 = octets.map(bytes => bytes.join('.'))
const ipv6 = fc.ipV6()
/** Texts near addresses: one edit away from a good one, or made of their characters. */
const nearly = fc.oneof(
  fc.stringMatching(/^[0-9a-f:.]{0,12}$/),
  fc
    .tuple(fc.oneof(ipv4, ipv6), fc.nat(), fc.constantFrom('', ':', '::', '.', '0', 'f', 'g', ' ', '/', '1:'))
    .map(([text, at, piece]) => {
      const cut = at % (text.length + 1)
      return text.slice(0, cut) + piece + text.slice(cut + (at % 2))
    }),
)

describe('parseAddress', () => {
  test.each([
    ['10.0.0.7', [10, 0, 0, 7]],
    ['255.255.255.255', [255, 255, 255, 255]],
    ['::', new Array(16).fill(0)],
    ['::1', [...new Array(15).fill(0), 1]],
    ['fd00::a:B', [0xfd, ...new Array(12).fill(0), 10, 0, 11]],
    ['1:2:3:4:5:6:7::', [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 0]],
    ['64:ff9b::10.0.0.7', [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 7]],
    ['::ffff:10.0.0.7', [10, 0, 0, 7]],
    ['::ffff:a00:7', [10, 0, 0, 7]],
    ['0:0:0:0:0:ffff:10.0.0.7', [10, 0, 0, 7]],
    ['::10.0.0.7', [...new Array(12).fill(0), 10, 0, 0, 7]],
  ])('%s', (text, bytes) => {
    expect([...(parseAddress(text) ?? [])]).toEqual(bytes)
  })

  test.each([
    '',
    ' ',
    '10.0.0',
    '10.0.0.0.1',
    '10.0.0.256',
    '010.0.0.1',
    '0x0a.0.0.1',
    '167772161',
    '10.0.0.-1',
    '10..0.1',
    ' 10.0.0.1',
    '10.0.0.1\n',
    '١.٠.٠.٧',
    ':',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7:8::',
    ':1:2:3:4:5:6:7:8',
    '1:2:3:4:5:6:7:8:',
    '12345::',
    'g::',
    'fe80::1%eth0',
    '[::1]',
    '10.0.0.1::',
    '10.0.0.1:0::1',
    '::ffff:010.0.0.1',
    '::1.2.3',
    '1:2:3:4:5:6:7:1.2.3.4',
    '0'.repeat(1e6),
  ])('%j is no address', text => {
    expect(parseAddress(text)).toBeUndefined()
  })

  test('accepts what inet_pton accepts, and nothing else', () => {
    fc.assert(
      fc.property(fc.oneof(ipv4, ipv6, nearly), text => {
        expect(parseAddress(text) !== undefined).toBe(isIP(text) !== 0)
      }),
      { numRuns: 2000 },
    )
  })
})

describe('parseNetwork', () => {
  test.each([
    ['10.0.0.0/8', '10.0.0.0', 8],
    ['10.1.2.3/8', '10.0.0.0', 8],
    ['10.1.2.3', '10.1.2.3', 32],
    ['10.1.2.255/31', '10.1.2.254', 31],
    ['0.0.0.0/0', '0.0.0.0', 0],
    ['fd00:1::7/8', 'fd00::', 8],
    ['::/0', '::', 0],
    ['::1', '::1', 128],
    ['::ffff:10.1.2.3/104', '10.0.0.0', 8],
    ['::ffff:0:0/96', '0.0.0.0', 0],
    ['::ffff:10.0.0.7', '10.0.0.7', 32],
  ])('%s is %s/%d', (text, address, prefix) => {
    expect(parseNetwork(text)).toEqual({ bytes: parseAddress(address), prefix })
  })

  test.each([
    '10.0.0/8',
    '10.0.0.1/33',
    '10.0.0.0/',
    '10.0.0.0/08',
    '10.0.0.0/+8',
    '10.0.0.0/8 ',
    '10.0.0.0 /8',
    '10.0.0.0//8',
    '10.0.0.0/8/8',
    '10.0.0.0/255.0.0.0',
    '10.0.0.0/1e1',
    '/8',
    '::/129',
    '::/1280',
    'fe80::1%eth0/64',
    '::ffff:10.0.0.0/95',
    '::ffff:10.0.0.0/8',
  ])('%j is refused', text => {
    expect(parseNetwork(text)).toBeUndefined()
  })
})

test('contains agrees with the BlockList of Node within a family', () => {
  const pair = fc.oneof(
    fc.tuple(octets, octets, fc.nat(32), fc.nat(32)).map(([net, random, prefix, shared]) => ({
      family: 'ipv4' as const,
      net: net.join('.'),
      address: blend(net, random, shared).join('.'),
      prefix,
    })),
    fc
      .tuple(
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        fc.nat(128),
        fc.nat(128),
      )
      .map(([net, random, prefix, shared]) => ({
        family: 'ipv6' as const,
        net: hex([...net]),
        address: hex(blend([...net], [...random], shared)),
        prefix,
      })),
  )
  fc.assert(
    fc.property(pair, ({ family, net, address, prefix }) => {
      const network = parseNetwork(`${net}/${prefix}`)
      const parsed = parseAddress(address)
      const oracle = new BlockList()
      oracle.addSubnet(net, prefix, family)
      expect(network && parsed && contains(network, parsed)).toBe(oracle.check(address, family))
    }),
    { numRuns: 1000 },
  )
})

test('IPv4-mapped addresses are IPv4, on both sides', () => {
  fc.assert(
    fc.property(ipv4, ipv4, fc.nat(32), (net, address, prefix) => {
      const plain = parseNetwork(`${net}/${prefix}`)
      const mapped = parseNetwork(`::ffff:${net}/${prefix + 96}`)
      expect(mapped).toEqual(plain)
      expect(parseAddress(`::ffff:${address}`)).toEqual(parseAddress(address))
    }),
  )
})

/** The first `shared` bits of one array, then those of the other: an address near the network's edge. */
function blend(first: number[], second: number[], shared: number): number[] {
  return first.map((byte, index) => {
    const bits = Math.min(Math.max(shared - index * 8, 0), 8)
    const mask = 0xff & (0xff << (8 - bits))
    return (byte & mask) | ((second[index] ?? 0) & ~mask & 0xff)
  })
}

function hex(bytes: number[]): string {
  return Array.from({ length: 8 }, (_, group) =>
    (((bytes[group * 2] ?? 0) << 8) | (bytes[group * 2 + 1] ?? 0)).toString(16),
  ).join(':')
}
