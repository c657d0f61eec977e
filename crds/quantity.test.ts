import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatSize, MAX_SIZE, parseQuantity, parseSize, SizeError } from './quantity.ts'

describe('parseSize', () => {
  test.each([
    ['1', 1],
    ['512b', 512],
    ['512B', 512],
    ['1K', 1024],
    ['1Ki', 1024],
    ['4M', 4 * 1024 ** 2],
    ['4G', 4 * 1024 ** 3],
    ['4Gi', 4 * 1024 ** 3],
    ['3T', 3 * 1024 ** 4],
    ['7P', 7 * 1024 ** 5],
    ['7Pi', 7 * 1024 ** 5],
    ['9007199254740991', MAX_SIZE],
    ['0000000000000000000001G', 1024 ** 3],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  test.each([
    '',
    ' ',
    '1X',
    'G',
    '1GB',
    '1GiB',
    '1k',
    '1g',
    '1E',
    '1s',
    '1.5G',
    '1 G',
    ' 1G',
    '1G\n',
    '-1',
    '+1',
    '1e9',
    '0x10',
    '١G',
    'Infinity',
    '1'.repeat(100_000),
  ])('%j is refused with what is accepted', text => {
    expect(() => parseSize(text)).toThrow(SizeError)
    expect(() => parseSize(text)).toThrow(/whole number of bytes.*K, M, G, T or P.*such as 4G/)
  })

  test.each(['0', '0G', '000b'])('%s is refused unless zero is allowed', text => {
    expect(() => parseSize(text)).toThrow(/at least 1 byte/)
    expect(parseSize(text, { allowZero: true })).toBe(0)
  })

  test.each(['9007199254740992', '8P', '8192P', '99999999999999999999P'])('%s is too large', text => {
    expect(() => parseSize(text)).toThrow(/at most 9007199254740991 bytes/)
  })

  test('every number of every unit that fits is exact', () => {
    fc.assert(
      fc.property(fc.constantFrom(...'KMGTP'), fc.constantFrom('', 'i'), fc.nat(), (unit, i, n) => {
        const exact = BigInt(n + 1) * 1024n ** BigInt('KMGTP'.indexOf(unit) + 1)
        if (exact > BigInt(MAX_SIZE)) expect(() => parseSize(`${n + 1}${unit}${i}`)).toThrow(SizeError)
        else expect(parseSize(`${n + 1}${unit}${i}`)).toBe(Number(exact))
      }),
    )
  })

  test('any text is a whole positive number of bytes or a SizeError with a short message', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.stringMatching(/^[0-9.+-]{0,6}[KMGTPEibBnumke]{0,3}$/),
    )
    fc.assert(
      fc.property(text, text => {
        for (const parse of [parseSize, parseQuantity]) {
          try {
            expect(parse(text)).toSatisfy((n: number) => Number.isSafeInteger(n) && n > 0)
          } catch (error) {
            expect(error).toBeInstanceOf(SizeError)
            expect((error as SizeError).code).toBe('InvalidSize')
            expect((error as SizeError).message.length).toBeLessThan(1000)
          }
        }
      }),
    )
  })
})

describe('parseQuantity', () => {
  test.each([
    ['10Gi', 10 * 1024 ** 3],
    ['10G', 10e9],
    ['1.5Gi', 1.5 * 1024 ** 3],
    ['.5Gi', 0.5 * 1024 ** 3],
    ['5.Gi', 5 * 1024 ** 3],
    ['500M', 500e6],
    ['1k', 1000],
    ['1Ki', 1024],
    ['1e9', 1e9],
    ['1E9', 1e9],
    ['1e+9', 1e9],
    ['12000e-3', 12],
    ['1.5e3', 1500],
    ['+4Mi', 4 * 1024 ** 2],
    ['1073741824', 1024 ** 3],
    ['0.001E', 1e15],
    ['0.001Ei', Math.ceil(1024 ** 6 / 1000)],
    [1073741824, 1024 ** 3],
    [1e9, 1e9],
  ])('%j is %d bytes', (value, bytes) => {
    expect(parseQuantity(value)).toBe(bytes)
  })

  test.each([
    ['0.1', 1],
    ['1m', 1],
    ['1001m', 2],
    ['1n', 1],
    ['1.0000001', 2],
    ['0.3Ki', 308],
    ['0.7e1', 7],
  ])('a fraction of a byte rounds up: %s is %d', (value, bytes) => {
    expect(parseQuantity(value)).toBe(bytes)
  })

  test.each([
    '',
    '.',
    'Gi',
    '1K',
    '1GB',
    '1Gib',
    '-1Gi',
    '1.2.3',
    '1e',
    '1e9Gi',
    '1e1000',
    '1e1.5',
    '1 Gi',
    '1Gi ',
    '٣Gi',
    'NaN',
    '9'.repeat(1e5),
  ])('%j is refused with what is accepted', value => {
    expect(() => parseQuantity(value)).toThrow(SizeError)
    expect(() => parseQuantity(value)).toThrow(/Ki, Mi, Gi, Ti or Pi.*k, M, G, T or P.*such as 10Gi/)
  })

  test.each([1.5, Number.NaN, Number.POSITIVE_INFINITY])('the number %d is refused', value => {
    expect(() => parseQuantity(value)).toThrow(SizeError)
  })

  test.each(['0', '0Gi', '0.000', '0e999', 0])('%j is refused unless zero is allowed', value => {
    expect(() => parseQuantity(value)).toThrow(/at least 1 byte/)
    expect(parseQuantity(value, { allowZero: true })).toBe(0)
  })

  test.each([-1, -1e300])('the number %d is too small', value => {
    expect(() => parseQuantity(value, { allowZero: true })).toThrow(SizeError)
  })

  test.each(['8Pi', '1E', '7Ei', '1e999', 2 ** 53, 1e300])('%j is too large', value => {
    expect(() => parseQuantity(value)).toThrow(/at most 9007199254740991 bytes/)
  })

  test('a decimal fraction of a unit is exact', () => {
    fc.assert(
      fc.property(fc.nat(9999), fc.nat(999), fc.constantFrom(...'KMGT'), (whole, milli, unit) => {
        fc.pre(whole + milli > 0)
        const text = `${whole}.${String(milli).padStart(3, '0')}${unit}i`
        const thousandths = BigInt(whole * 1000 + milli) * 1024n ** BigInt('KMGT'.indexOf(unit) + 1)
        if ((thousandths + 999n) / 1000n > BigInt(MAX_SIZE))
          expect(() => parseQuantity(text)).toThrow(SizeError)
        else expect(parseQuantity(text)).toBe(Number((thousandths + 999n) / 1000n))
      }),
    )
  })

  test('plain bytes survive, as text and as number', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: MAX_SIZE }), bytes => {
        expect(parseQuantity(bytes)).toBe(bytes)
        expect(parseQuantity(String(bytes))).toBe(bytes)
        expect(parseSize(String(bytes))).toBe(bytes)
      }),
    )
  })
})

describe('formatSize', () => {
  test.each([
    [0, '0 B'],
    [1, '1 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [1024 ** 2 - 1, '1 MiB'],
    [1024 ** 3, '1 GiB'],
    [1.25 * 1024 ** 4, '1.3 TiB'],
    [10 * 1024 ** 5, '10 PiB'],
  ])('%d is %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text)
  })

  test('stays within a twentieth of the unit, and within four digits', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: MAX_SIZE }), bytes => {
        const [number = '', unit = ''] = formatSize(bytes).split(' ')
        const factor = 1024 ** ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'].indexOf(unit)
        expect(Math.abs(Number(number) * factor - bytes)).toBeLessThanOrEqual(factor * 0.0501)
        expect(Number(number)).toBeLessThan(8192)
      }),
    )
  })
})
