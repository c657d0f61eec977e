import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseVmstat, runsFree } from './write-pressure.ts'

const SAMPLE = `nr_free_pages 1
nr_dirty 11
nr_writeback 22
nr_writeback_temp 99
nr_dirty_threshold 3333
nr_dirty_background_threshold 444
nr_dirtied 98
pgpgin 5
`
const PARSED = { dirty: 11, writeback: 22, threshold: 3333, backgroundThreshold: 444 }

describe('/proc/vmstat', () => {
  test('has the counters by their whole names', () => {
    expect(parseVmstat(SAMPLE)).toEqual(PARSED)
  })

  test('of this machine can be read', () => {
    const memory = parseVmstat(readFileSync('/proc/vmstat', 'latin1'))
    expect(memory?.threshold).toBeGreaterThan(0)
    expect(memory?.backgroundThreshold).toBeGreaterThan(0)
  })

  test.each(['nr_dirty', 'nr_writeback', 'nr_dirty_threshold', 'nr_dirty_background_threshold'])(
    'without %s is of no use',
    name => expect(parseVmstat(SAMPLE.replace(new RegExp(`^${name} .*\n`, 'm'), ''))).toBeUndefined(),
  )

  test('that is anything else is of no use', () => {
    fc.assert(
      fc.property(fc.string(), text => {
        expect(parseVmstat(text)).toBeUndefined()
      }),
    )
    expect(parseVmstat(SAMPLE.replace('11', 'x'))).toBeUndefined()
    expect(parseVmstat(SAMPLE.replace('3333\n', '3333'))).toBeUndefined()
  })
})

test.each<[dirty: number, writeback: number, free: boolean]>([
  [0, 0, true],
  [100, 19, true],
  [100, 20, false],
  [0, 120, false],
  [1000, 1000, false],
])(
  'With thresholds of 200 and 100 pages, %i dirty and %i in writeback: free is %s',
  (dirty, writeback, free) => {
    expect(runsFree({ dirty, writeback, threshold: 200, backgroundThreshold: 100 })).toBe(free)
  },
)
