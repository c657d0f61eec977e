import { describe, expect, test } from 'vitest'
import {
  parseChoice,
  parseCount,
  parseDuration,
  parseFilesystemType,
  parseListenAddress,
  parseSocketPath,
  parseText,
  parseVariable,
} from './option-values.ts'
import { UsageError } from './options.ts'

describe('durations', () => {
  test.each([
    ['10s', 10_000],
    ['500ms', 500],
    ['10m', 600_000],
    ['2h', 7_200_000],
    ['30', 30_000],
    ['0.5', 500],
    ['1.5m', 90_000],
    ['1ms', 1],
    ['596h', 2_145_600_000],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDuration(text)).toBe(ms)
  })

  test.each(['', 's', '-1', '+1', '1e3', '1 s', ' 1', '1d', '1S', '.5', '1.', '0x10', '1s1', '١'])(
    '%j is none',
    text => {
      expect(() => parseDuration(text)).toThrow(/is not a duration\. Give seconds/)
    },
  )

  test.each(['0', '0ms', '0.1ms', '0.0001'])('%s is too short', text => {
    expect(() => parseDuration(text)).toThrow(/is too short/)
  })

  test.each(['597h', '2147483648ms', '999999999999999h'])('%s is longer than a timer can count', text => {
    expect(() => parseDuration(text)).toThrow(/is too long/)
  })
})

describe('addresses to listen on', () => {
  test.each([
    ['127.0.0.1:10809', '127.0.0.1', 10_809],
    ['0.0.0.0:0', '0.0.0.0', 0],
    ['*:10809', '*', 10_809],
    ['[::1]:10809', '::1', 10_809],
    ['[::]:65535', '::', 65_535],
    ['[fe80::1%eth0]:1', 'fe80::1%eth0', 1],
    ['[::ffff:10.0.0.1]:1', '::ffff:10.0.0.1', 1],
    ['localhost:1', 'localhost', 1],
    ['disks.example.org:10809', 'disks.example.org', 10_809],
    ['4disks:1', '4disks', 1],
  ])('%s', (text, host, port) => {
    expect(parseListenAddress(text)).toEqual({ host, port })
  })

  test.each([
    ['', /not HOST:PORT/],
    ['10809', /not HOST:PORT/],
    ['localhost', /not HOST:PORT/],
    ['localhost:', /not HOST:PORT/],
    ['localhost:nbd', /not HOST:PORT/],
    ['localhost:-1', /not HOST:PORT/],
    ['::1:10809', /not HOST:PORT.*\[::1\]:10809/],
    ['[::1]', /not HOST:PORT/],
    ['[::1]10809', /not HOST:PORT/],
    ['1.2.3.4:1:2', /not HOST:PORT/],
    [':10809', /has no host.*\*:PORT/],
    ['*', /not HOST:PORT.*\*:10809/],
    ['[*]:1', /not an IPv6 address/],
    ['*.example.org:1', /neither an IPv4 address nor a host name/],
    ['[]:10809', /has no host/],
    ['[127.0.0.1]:1', /"127\.0\.0\.1" in .* not an IPv6 address/],
    ['[::g]:1', /not an IPv6 address/],
    ['256.0.0.1:1', /neither an IPv4 address nor a host name/],
    ['1.2.3:1', /neither an IPv4 address nor a host name/],
    ['010.0.0.1:1', /neither an IPv4 address nor a host name/],
    ['-a:1', /neither an IPv4 address nor a host name/],
    ['a..b:1', /neither an IPv4 address nor a host name/],
    ['a b:1', /neither an IPv4 address nor a host name/],
    ['a/b:1', /neither an IPv4 address nor a host name/],
    [`${'a'.repeat(64)}:1`, /neither an IPv4 address nor a host name/],
    ['localhost:65536', /above 65535/],
    ['localhost:99999', /above 65535/],
    ['localhost:100000', /not HOST:PORT/],
  ])('%j is refused', (text, reason) => {
    expect(() => parseListenAddress(text)).toThrow(reason)
    expect(() => parseListenAddress(text)).toThrow(UsageError)
  })

  test('a long text with dots is refused quickly', () => {
    const begin = process.cpuUsage()
    expect(() => parseListenAddress(`${'a.'.repeat(50_000)}!:1`)).toThrow(UsageError)
    expect(process.cpuUsage(begin).user / 1000).toBeLessThan(1000)
  })
})

describe('variables', () => {
  test.each([
    ['base=/srv/base.img', 'base', '/srv/base.img'],
    ['_A1=', '_A1', ''],
    ['a=b=c', 'a', 'b=c'],
    ["a=' $(x)\n", 'a', "' $(x)\n"],
  ])('%j', (text, key, value) => {
    expect(parseVariable(text)).toEqual({ key, value })
  })

  test.each([
    ['a', /not KEY=VALUE/],
    ['', /not KEY=VALUE/],
    ['=x', /not a shell identifier/],
    ['1a=x', /not a shell identifier/],
    ['a-b=x', /not a shell identifier/],
    ['a b=x', /not a shell identifier/],
    ['a\n=x', /"a\\n" is not a shell identifier/],
    ['é=x', /not a shell identifier/],
    ['disk=/etc/passwd', /variable disk is set by the server/],
    ['size=1', /Use --size/],
  ])('%j is refused', (text, reason) => {
    expect(() => parseVariable(text)).toThrow(reason)
  })

  test('names are told apart by case', () => {
    expect(parseVariable('DISK=x')).toEqual({ key: 'DISK', value: 'x' })
  })
})

describe('other values', () => {
  test('counts', () => {
    const count = parseCount(1, 4096)
    expect(count('1')).toBe(1)
    expect(count('4096')).toBe(4096)
    expect(count('007')).toBe(7)
    for (const text of ['', '0', '4097', '-1', '+1', '1.5', '1e3', '0x1', ' 1', '9'.repeat(400), '१']) {
      expect(() => count(text)).toThrow(/is not a whole number from 1 to 4096\.$/)
    }
  })

  test('choices', () => {
    const choice = parseChoice(['strict', 'relaxed'])
    expect(choice('relaxed')).toBe('relaxed')
    for (const text of ['', 'Strict', 'strict ', 'toString']) {
      expect(() => choice(text)).toThrow(/is none of strict, relaxed\.$/)
    }
  })

  test('texts', () => {
    expect(parseText(' ')).toBe(' ')
    expect(() => parseText('')).toThrow('The value is empty.')
  })

  test('paths of unix sockets, in bytes', () => {
    expect(parseSocketPath('a'.repeat(107))).toHaveLength(107)
    expect(() => parseSocketPath('a'.repeat(108))).toThrow(/has 108 bytes.* at most 107/)
    expect(() => parseSocketPath('é'.repeat(54))).toThrow(/has 108 bytes/)
    expect(() => parseSocketPath('')).toThrow('The value is empty.')
  })

  test('filesystem types never hold more than a name', () => {
    for (const type of ['ext4', 'vfat', 'ntfs', 'btrfs', 'f2fs', '9p']) {
      expect(parseFilesystemType(type)).toBe(type)
    }
    for (const type of ['', '-x', '../sh', 'a/b', 'a b', 'a;b', 'a.b', 'EXT4', 'ext4\n', 'x'.repeat(17)]) {
      expect(() => parseFilesystemType(type)).toThrow(/is not a filesystem type/)
    }
  })
})
