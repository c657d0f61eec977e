import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ExportNameError,
  type ExportNameErrorCode,
  MAX_NAME_BYTES,
  type NameRules,
  parseExportName,
  parseRequestedName,
} from './export-name.ts'

function refusal(parse: () => unknown): ExportNameErrorCode | undefined {
  try {
    parse()
  } catch (error) {
    expect(error).toBeInstanceOf(ExportNameError)
    expect((error as ExportNameError).message).toMatch(/^Export name .*\.$/s)
    return (error as ExportNameError).code
  }
  return undefined
}

const both: NameRules[] = ['strict', 'relaxed']

describe.each(both)('%s rules', rules => {
  test.each([
    'alice',
    'a',
    'thin client 7',
    'grüße',
    '磁盘',
    '-rf',
    '~',
    '*',
    'a'.repeat(255),
    '\ufeffbom',
    '💾',
  ])('%j is a name, as text and as bytes', name => {
    expect(parseExportName(name, rules)).toBe(name)
    expect(parseExportName(Buffer.from(name), rules)).toBe(name)
  })

  test('the empty name is the disk "default"', () => {
    expect(parseExportName('', rules)).toBe('default')
    expect(parseExportName(Buffer.alloc(0), rules)).toBe('default')
    expect(parseExportName('default', rules)).toBe('default')
  })

  test.each<[string, string, ExportNameErrorCode]>([
    ['a slash', 'a/b', 'Slash'],
    ['only a slash', '/', 'Slash'],
    ['NUL', 'a\0b', 'ControlCharacter'],
    ['a line break', 'a\nb', 'ControlCharacter'],
    ['DEL', 'a\u007f', 'ControlCharacter'],
    ['a C1 control', 'a\u009bb', 'ControlCharacter'],
    ['256 bytes', 'a'.repeat(256), 'TooLong'],
    ['256 bytes in 128 characters', 'ü'.repeat(128), 'TooLong'],
    ['a megabyte', 'a'.repeat(1 << 20), 'TooLong'],
    ['a lone surrogate', 'a\ud800', 'NotUtf8'],
  ])('%s is refused', (_, name, code) => {
    expect(refusal(() => parseExportName(name, rules))).toBe(code)
    if (name.isWellFormed()) expect(refusal(() => parseExportName(Buffer.from(name), rules))).toBe(code)
  })

  test.each([
    ['a continuation byte alone', [0x80]],
    ['a cut sequence', [0x61, 0xc3]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['an encoded surrogate', [0xed, 0xa0, 0x80]],
    ['a code point past U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['Latin-1', [0x67, 0x72, 0xfc, 0xdf]],
  ])('%s is not UTF-8', (_, bytes) => {
    expect(refusal(() => parseExportName(Buffer.from(bytes), rules))).toBe('NotUtf8')
  })
})

test.each<[string, ExportNameErrorCode | undefined, ExportNameErrorCode | undefined]>([
  ['.', 'Dot', 'LeadingDot'],
  ['..', 'Dot', 'LeadingDot'],
  ['.hidden', 'Dot', 'LeadingDot'],
  ['../etc', 'Slash', 'Slash'],
  ['host.example.org', 'Dot', undefined],
  ['a.', 'Dot', undefined],
  ['52:54:00:12:34:56', 'Colon', undefined],
  [':', 'Colon', undefined],
])('%j breaks %s (strict), %s (relaxed)', (name, strict, relaxed) => {
  expect(refusal(() => parseExportName(name))).toBe(strict)
  expect(refusal(() => parseExportName(name, 'strict'))).toBe(strict)
  expect(refusal(() => parseExportName(name, 'relaxed'))).toBe(relaxed)
})

test('any bytes are either refused or one name that is a safe file name and encodes to the same bytes', () => {
  const likely = fc
    .string({ unit: fc.constantFrom(...'ab./:ü\0\n'), maxLength: 6 })
    .map(text => Buffer.from(text))
  const wild = fc.uint8Array({ maxLength: 300 }).map(bytes => Buffer.from(bytes))
  fc.assert(
    fc.property(fc.oneof(likely, wild), fc.constantFrom(...both), (raw, rules) => {
      let name: string
      try {
        name = parseExportName(raw, rules)
      } catch (error) {
        expect(error).toBeInstanceOf(ExportNameError)
        return
      }
      expect(Buffer.from(raw.length === 0 ? '' : name)).toEqual(raw)
      expect(name).toMatch(rules === 'strict' ? /^[^./:\p{Cc}]+$/u : /^[^./\p{Cc}][^/\p{Cc}]*$/u)
      expect(Buffer.byteLength(name)).toBeLessThanOrEqual(MAX_NAME_BYTES)
    }),
  )
})

describe('parseRequestedName', () => {
  const G = 1024 ** 3

  test.each<[string, string, number | undefined]>([
    ['alice', 'alice', undefined],
    ['alice:4G', 'alice', 4 * G],
    ['alice:4Gi', 'alice', 4 * G],
    ['alice:1048576', 'alice', 1048576],
    ['alice:512b', 'alice', 512],
    [':4G', 'default', 4 * G],
    ['', 'default', undefined],
    [`${'a'.repeat(255)}:4G`, 'a'.repeat(255), 4 * G],
  ])('strict with sizes: %j is %s and %d bytes', (raw, name, requestedSize) => {
    const expected = requestedSize === undefined ? { name } : { name, requestedSize }
    expect(parseRequestedName(raw, { sizes: true })).toEqual(expected)
    expect(parseRequestedName(Buffer.from(raw), { sizes: true })).toEqual(expected)
  })

  test.each<[string, ExportNameErrorCode]>([
    ['alice:', 'Size'],
    ['alice:1X', 'Size'],
    ['alice:0', 'Size'],
    ['alice:9P', 'Size'],
    ['alice:-1G', 'Size'],
    ['alice: 4G', 'Size'],
    ['a:b:4G', 'Colon'],
    ['alice:4G:', 'Colon'],
    ['a/b:4G', 'Slash'],
    ['a\0:4G', 'ControlCharacter'],
    [`${'a'.repeat(256)}:4G`, 'TooLong'],
    ['a'.repeat(256), 'TooLong'],
    [`a:${'0'.repeat(4000)}1G`, 'Size'],
  ])('strict with sizes: %j is refused', (raw, code) => {
    expect(refusal(() => parseRequestedName(raw, { sizes: true }))).toBe(code)
  })

  test('a wire name beyond any name with a size is refused before it is decoded', () => {
    const raw = Buffer.alloc(4096, 0xff)
    expect(refusal(() => parseRequestedName(raw, { sizes: true }))).toBe('TooLong')
    expect(refusal(() => parseRequestedName(raw))).toBe('TooLong')
  })

  test('a size that cannot be granted says what is accepted', () => {
    expect(() => parseRequestedName('alice:1X', { sizes: true })).toThrow(/"alice:1X".*K, M, G, T or P/)
  })

  test('without sizes, strict rules refuse the colon and say that sizes are off', () => {
    expect(refusal(() => parseRequestedName('alice:4G'))).toBe('Colon')
    expect(() => parseRequestedName('alice:4G')).toThrow(/no client choose a size/)
  })

  test('without sizes, relaxed rules keep the colon in the name', () => {
    expect(parseRequestedName('alice:4G', { rules: 'relaxed' })).toEqual({ name: 'alice:4G' })
  })

  test.each<[string, string, number | undefined]>([
    ['host.example.org:4G', 'host.example.org', 4 * G],
    ['52:54:00:12:34:56', '52:54:00:12:34:56', undefined],
    ['52:54:00:12:34:5b', '52:54:00:12:34:5b', undefined],
    ['52:54:00:12:34:56:2T', '52:54:00:12:34:56', 2048 * G],
    ['alice:1G:2G', 'alice:1G', 2 * G],
    ['alice:1048576', 'alice:1048576', undefined],
    ['alice:', 'alice:', undefined],
    ['alice:1X', 'alice:1X', undefined],
    [':4G', 'default', 4 * G],
  ])('relaxed with sizes: %j is %s and %d bytes', (raw, name, requestedSize) => {
    expect(parseRequestedName(raw, { rules: 'relaxed', sizes: true })).toEqual(
      requestedSize === undefined ? { name } : { name, requestedSize },
    )
  })

  test.each(['alice:0G', 'alice:9P', 'alice:99999999999T'])('relaxed with sizes: %j is refused', raw => {
    expect(refusal(() => parseRequestedName(raw, { rules: 'relaxed', sizes: true }))).toBe('Size')
  })

  test('every name and size come out as they went in', () => {
    const name = fc
      .stringMatching(/^[^./:\p{Cc}]{1,50}$/u)
      .filter(text => Buffer.byteLength(text) <= MAX_NAME_BYTES)
    fc.assert(
      fc.property(
        name,
        fc.nat(8_000_000),
        fc.constantFrom(...'KMG'),
        fc.constantFrom(...both),
        (name, n, unit, rules) => {
          expect(parseRequestedName(`${name}:${n + 1}${unit}`, { rules, sizes: true })).toEqual({
            name,
            requestedSize: (n + 1) * 1024 ** ('KMG'.indexOf(unit) + 1),
          })
        },
      ),
    )
  })
})
