import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkFamilies, exposition, type Family } from './exposition.ts'
import { Histogram } from './histogram.ts'
import { parseExposition, sampleValue } from './test-exposition.ts'

const family = (given: Partial<Family>): Family => ({
  name: 'x',
  type: 'gauge',
  labels: [],
  help: 'Help.',
  samples: () => [{ labels: [], value: 1 }],
  ...given,
})
const page = (...families: Family[]) => [...exposition(families)].join('')

describe('the page', () => {
  // From the text of the format's documentation, not from the code.
  test('has HELP, TYPE and a line for each sample', () => {
    const samples = () => [
      { labels: ['a', 'read'], value: 3 },
      { labels: ['b', 'flush'], value: 0.5 },
    ]
    expect(page(family({ name: 'x_total', type: 'counter', labels: ['export', 'command'], samples }))).toBe(
      [
        '# HELP x_total Help.',
        '# TYPE x_total counter',
        'x_total{export="a",command="read"} 3',
        'x_total{export="b",command="flush"} 0.5',
        '',
      ].join('\n'),
    )
  })

  test('has a histogram as buckets that add up, a sum and a count', () => {
    const histogram = new Histogram([0.25, 1])
    for (const value of [0.125, 0.5, 0.5, 8]) histogram.observe(value)
    const samples = () => [{ labels: ['a'], value: histogram }]
    expect(page(family({ type: 'histogram', labels: ['export'], samples }))).toBe(
      [
        '# HELP x Help.',
        '# TYPE x histogram',
        'x_bucket{export="a",le="0.25"} 1',
        'x_bucket{export="a",le="1"} 3',
        'x_bucket{export="a",le="+Inf"} 4',
        'x_sum{export="a"} 9.125',
        'x_count{export="a"} 4',
        '',
      ].join('\n'),
    )
  })

  test('has a head even where there is no sample', () => {
    expect(page(family({ samples: () => [] }))).toBe('# HELP x Help.\n# TYPE x gauge\n')
  })

  test.each([
    [Infinity, '+Inf'],
    [-Infinity, '-Inf'],
    [Number.NaN, 'NaN'],
    [1e21, '1e+21'],
    [5e-7, '5e-7'],
    [2 ** 53, '9007199254740992'],
  ])('%d is written as %s', (value, text) => {
    expect(page(family({ samples: () => [{ labels: [], value }] }))).toContain(`\nx ${text}\n`)
  })

  test('escapes labels and help', () => {
    const samples = () => [{ labels: ['a"b\\c\nd'], value: 1 }]
    const text = page(family({ labels: ['export'], help: 'One\\two\nthree "four"', samples }))
    expect(text).toContain('# HELP x One\\\\two\\nthree "four"\n')
    expect(text).toContain('x{export="a\\"b\\\\c\\nd"} 1\n')
  })

  test('brings every label back, whatever it holds', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string(), (one, other) => {
        const samples = () => [{ labels: [one, other], value: 1 }]
        const parsed = parseExposition(page(family({ labels: ['one', 'other'], samples })))
        expect(sampleValue(parsed, 'x', { one: one.toWellFormed(), other })).toBe(1)
      }),
    )
  })
})

describe('families that no scraper could read are refused', () => {
  test.each([
    [[family({ name: 'x y' })], 'x y'],
    [[family({ name: '1x' })], '1x'],
    [[family({ labels: ['a-b'] })], 'a-b'],
    [[family({}), family({})], 'two metrics'],
    [[family({ type: 'counter' })], '_total'],
    [[family({ name: 'x_total' })], '_total'],
    [[family({ type: 'histogram', labels: ['le'] })], 'le'],
  ])('%#', (families, reason) => {
    expect(() => checkFamilies(families)).toThrow(reason)
  })

  test('good ones are not', () => {
    expect(() => checkFamilies([family({}), family({ name: 'y_total', type: 'counter' })])).not.toThrow()
  })
})

describe('the parser of the tests is strict', () => {
  const head = '# HELP x Help.\n# TYPE x gauge\n'
  test.each([
    ['x 1'],
    ['x 1\n'],
    [`${head}x 1`],
    [`${head}y 1\n`],
    [`${head}x  1\n`],
    [`${head}x one\n`],
    [`${head}x 1\nx 1\n`],
    [`${head}x{a="1",a="2"} 1\n`],
    [`${head}x{a=1} 1\n`],
    [`${head}x{a="\\t"} 1\n`],
    [`${head}x{a="1"}1\n`],
    [`${head}\nx 1\n`],
    [`${head}${head}`],
    ['# TYPE x gauge\nx 1\n'],
    ['# HELP x_total H\n# TYPE x_total counter\nx_total -1\n'],
    ['# HELP x H\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_sum 1\nx_count 1\n'],
    ['# HELP x H\n# TYPE x histogram\nx_bucket{le="1"} 2\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 1\n'],
    ['# HELP x H\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 2\n'],
    ['# HELP x H\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} 1\nx_count 1\n'],
  ])('%j', text => {
    expect(() => parseExposition(text)).toThrow()
  })
})
