import { describe, expect, it } from 'vitest'
import { addressOf } from '../linux/syscalls.ts'
import { OUT_HEADER_SIZE } from './constants.ts'
import { Exchange, FOR_FILES, FOR_SOCKETS, MAX_DATA } from './exchange.ts'
import { WRITE_DATA } from './protocol.ts'

describe('the memory of an exchange', () => {
  it.each([
    ['files', FOR_FILES],
    ['sockets', FOR_SOCKETS],
  ])('has its data where %s are copied quickly', (_, inPage) => {
    for (let made = 0; made < 8; made++) {
      const exchange = new Exchange(() => undefined, inPage)
      expect((exchange.inputAddress + WRITE_DATA) % 4096).toBe(inPage)
      expect(exchange.dataAddress % 4096).toBe(inPage)
    }
  })

  it('holds the largest request and the largest reply, and no two share memory', () => {
    const exchange = new Exchange(() => undefined, FOR_SOCKETS)
    const { input, output, request, reply, dataStart } = exchange
    expect(input.length).toBeGreaterThanOrEqual(WRITE_DATA + MAX_DATA)
    expect(output.length - dataStart).toBe(MAX_DATA)
    expect(addressOf(input)).toBe(exchange.inputAddress)
    expect(addressOf(output) + dataStart).toBe(exchange.dataAddress)
    input.fill(0)
    output.fill(1)
    expect(input.every(byte => byte === 0)).toBe(true)
    input.writeUInt32LE(0x12345678, 0)
    expect(request[0]).toBe(0x12345678)
    output.writeUInt32LE(0x87654321, dataStart - OUT_HEADER_SIZE)
    expect(reply[0]).toBe(0x87654321)
  })
})
