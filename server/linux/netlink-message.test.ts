import { expect, test } from 'vitest'
import { decodeAttributes, decodeMessages, encodeRequest, nested, text, u32, u64 } from './netlink-message.ts'

// Made by a C program from linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h.
const CONNECT =
  '4c000000200005000700000000000000010100000c00020000000000050000000c00030000020000000000000e000a00' +
  '6e62643a2f2f682f78000000100007800c0001800800010019000000'
const ANSWER =
  '1c00000020000000070000000000000001010000080001000300000024000000020000000800000000000000e4ffffff' +
  '00000000000000000000000000000000'

test('a request is what the kernel headers make of it', () => {
  const request = {
    family: 0x20,
    command: 1,
    version: 1,
    attributes: [u64(2, 0x5_0000_0000), u64(3, 512), text(10, 'nbd://h/x'), nested(7, nested(1, u32(1, 25)))],
  }
  expect(encodeRequest(request, 7).toString('hex')).toBe(CONNECT)
})

test('an answer and an error come out of one datagram', () => {
  const [answer, error, ...more] = decodeMessages(Buffer.from(ANSWER, 'hex'))
  expect(more).toEqual([])
  expect(answer).toMatchObject({ type: 0x20, sequence: 7, command: 1, errno: 0 })
  expect(answer?.attributes.get(1)?.readUInt32LE(0)).toBe(3)
  expect(error).toMatchObject({ type: 2, sequence: 8, errno: 28 })
})

test('nested attributes are read as they were written', () => {
  const [message] = decodeMessages(Buffer.from(CONNECT, 'hex'))
  const item = decodeAttributes(message?.attributes.get(7) ?? Buffer.alloc(0)).get(1)
  expect(
    decodeAttributes(item ?? Buffer.alloc(0))
      .get(1)
      ?.readUInt32LE(0),
  ).toBe(25)
  expect(message?.attributes.get(10)?.toString()).toBe('nbd://h/x\0')
})

test('what is cut off anywhere, or says it is longer than it is, is left out', () => {
  const bytes = Buffer.from(ANSWER, 'hex')
  for (let length = 0; length < bytes.length; length++) {
    expect(decodeMessages(bytes.subarray(0, length)).length).toBeLessThan(2)
  }
  const wrong = Buffer.from(bytes)
  wrong.writeUInt32LE(0, 0)
  expect(decodeMessages(wrong)).toEqual([])
  const endless = Buffer.alloc(8)
  expect(decodeAttributes(endless).size).toBe(0)
})
