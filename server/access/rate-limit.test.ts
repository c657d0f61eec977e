import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  BURST_MS,
  type Direction,
  isLimited,
  RateAccount,
  RateAccounts,
  type RateLimits,
  TokenBucket,
} from './rate-limit.ts'

const MIB = 2 ** 20
const SECOND = 1000

describe('a bucket', () => {
  test('lets a request of any size pass as a whole, and the next one once that is paid', () => {
    const bucket = new TokenBucket(MIB, 0)
    expect(bucket.take(32 * MIB, 0)).toBe(0)
    expect(bucket.take(MIB, 0)).toBeCloseTo(32 * SECOND - BURST_MS, 6)
    expect(bucket.take(MIB, 10 * SECOND)).toBeCloseTo(23 * SECOND - BURST_MS, 6)
  })

  test('lets an idle client save up no more than a burst', () => {
    const bucket = new TokenBucket(1000, 0)
    expect(bucket.take(BURST_MS, 3600 * SECOND)).toBe(0)
    expect(bucket.take(1, 3600 * SECOND)).toBe(0)
    expect(bucket.take(1, 3600 * SECOND)).toBeCloseTo(1, 6)
  })

  test('has debts that a higher rate pays sooner, and a lower one later', () => {
    const bucket = new TokenBucket(1, 0)
    bucket.take(32 * MIB, 0)
    bucket.setRate(MIB, 0)
    expect(bucket.debt(0)).toBeCloseTo(32 * SECOND, 0)
    bucket.setRate(2 * MIB, 16 * SECOND)
    expect(bucket.debt(16 * SECOND)).toBeCloseTo(8 * SECOND, 0)
    bucket.setRate(MIB / 2, 16 * SECOND)
    expect(bucket.debt(16 * SECOND)).toBeCloseTo(32 * SECOND, 0)
  })

  test('does not keep more savings than its new rate allows', () => {
    const bucket = new TokenBucket(1_000_000, 0)
    bucket.setRate(1000, 0)
    bucket.take(BURST_MS + 1000, 0)
    expect(bucket.debt(0)).toBeCloseTo(SECOND, 6)
  })

  test('is not confused by a clock reading that is older than the last one', () => {
    const bucket = new TokenBucket(1000, 1000)
    bucket.take(BURST_MS + 500, 1000)
    expect(bucket.debt(900)).toBeCloseTo(500, 6)
    expect(bucket.debt(1000)).toBeCloseTo(500, 6)
    expect(bucket.debt(1100)).toBeCloseTo(400, 6)
  })
})

/** Requests that come as soon as they may, for so long: tokens that have begun by the end. */
function greed(
  bucket: TokenBucket,
  sizes: readonly number[],
  lateness: readonly number[],
  ms: number,
): number {
  let now = 0
  let begun = 0
  for (let index = 0; ; index++) {
    const size = sizes[index % sizes.length] ?? 1
    const wait = bucket.take(size, now)
    if (wait > 0) now += Math.ceil(wait) + (lateness[index % lateness.length] ?? 0)
    if (now >= ms) return begun
    begun += size
  }
}

describe('in the long run', () => {
  const rates = fc.integer({ min: 1000, max: 2 ** 30 })
  const late = fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 1, maxLength: 20 })

  test('a greedy client gets its rate within 2 %, however large its requests are and late its timers', () => {
    const part = fc.array(fc.double({ min: 0.001, max: 3, noNaN: true }), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(rates, part, late, (rate, parts, lateness) => {
        const sizes = parts.map(seconds => Math.max(1, Math.ceil(seconds * rate)))
        const ms = 400 * SECOND
        const begun = greed(new TokenBucket(rate, 0), sizes, lateness, ms)
        expect(begun / (rate * (ms / SECOND))).toBeGreaterThan(0.98)
        expect(begun / (rate * (ms / SECOND))).toBeLessThan(1.02)
      }),
      { numRuns: 50 },
    )
  })

  test('nobody ever gets more than rate, burst and one request, whatever the pattern', () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 0, max: 2000 })), {
      minLength: 1,
      maxLength: 100,
    })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), steps, (rate, requests) => {
        const bucket = new TokenBucket(rate, 0)
        let now = 0
        let begun = 0
        for (const [size, pause] of requests) {
          const start = now + bucket.take(size, now)
          const allowed = (rate * (start + BURST_MS)) / SECOND
          // All that began before this one.
          expect(begun).toBeLessThanOrEqual(allowed * (1 + 1e-9) + 1e-6)
          begun += size
          now = start + pause
        }
      }),
    )
  })

  test('connections of one client begin in the order in which they asked', () => {
    fc.assert(
      fc.property(rates, fc.array(fc.integer({ min: 1, max: 2 ** 25 }), { minLength: 2 }), (rate, sizes) => {
        const bucket = new TokenBucket(rate, 0)
        const starts = sizes.map(size => bucket.take(size, 5))
        expect(starts).toEqual(starts.toSorted((one, other) => one - other))
      }),
    )
  })
})

describe('an account', () => {
  const limits: RateLimits = { readBytesPerSecond: MIB, writeBytesPerSecond: 2 * MIB, iops: 100 }

  test('counts reads and writes apart', () => {
    const account = new RateAccount(limits, 0)
    expect(account.charge('read', 32 * MIB, 0)).toBe(0)
    expect(account.charge('write', 2 * MIB, 0)).toBe(0)
    expect(account.charge('write', 1, 0)).toBeCloseTo(SECOND - BURST_MS, 0)
    expect(account.charge('read', 1, 0)).toBeCloseTo(32 * SECOND - BURST_MS, 0)
  })

  test('counts everything as an operation, and what moves no data as nothing else', () => {
    const account = new RateAccount(limits, 0)
    const directions: readonly Direction[] = ['neither', 'read', 'write']
    // The burst of 25, the one that goes into debt, and a hundred more at the rate.
    for (let index = 0; index <= 125; index++) account.charge(directions[index % 3] ?? 'neither', 0, 0)
    expect(account.charge('neither', 2 ** 32, 0)).toBeCloseTo(1010, 6)
    expect(account.charge('read', 0, 0)).toBeCloseTo(1020, 6)
  })

  test('without limits never lets anybody wait', () => {
    const account = new RateAccount({}, 0)
    for (let index = 0; index < 1000; index++) expect(account.charge('read', 2 ** 25, 0)).toBe(0)
    expect(account.owes(0)).toBe(false)
  })

  test('takes other limits while it is in use, and forgives what a limit that is lifted had counted', () => {
    const account = new RateAccount({}, 0)
    account.setLimits({ readBytesPerSecond: 1 }, 0)
    account.charge('read', MIB, 0)
    expect(account.owes(0)).toBe(true)
    account.setLimits({ readBytesPerSecond: MIB }, 0)
    expect(account.charge('read', 0, 0)).toBeLessThanOrEqual(SECOND)
    account.setLimits({}, 0)
    expect(account.charge('read', MIB, 0)).toBe(0)
    account.setLimits({ readBytesPerSecond: MIB }, 0)
    expect(account.charge('read', MIB, 0)).toBe(0)
  })
})

describe('the table of accounts', () => {
  const limits: RateLimits = { readBytesPerSecond: 1000 }

  test('gives all connections of a client one account', () => {
    const accounts = new RateAccounts()
    const account = accounts.open('a', limits, 0)
    expect(accounts.open('a', limits, 0)).toBe(account)
    expect(accounts.open('b', limits, 0)).not.toBe(account)
  })

  test('remembers a client that leaves in debt until the debt is paid', () => {
    const accounts = new RateAccounts()
    const account = accounts.open('a', limits, 0)
    account.charge('read', 10_250, 0)
    accounts.release('a', 0)
    expect(accounts.open('a', limits, 5 * SECOND)).toBe(account)
    accounts.release('a', 5 * SECOND)
    expect(accounts.size).toBe(1)
    accounts.open('b', limits, 11 * SECOND)
    accounts.release('b', 11 * SECOND)
    expect(accounts.size).toBe(0)
  })

  test('keeps an account that others still use', () => {
    const accounts = new RateAccounts()
    const account = accounts.open('a', limits, 0)
    accounts.open('a', limits, 0)
    accounts.release('a', 0)
    expect(accounts.open('a', limits, 0)).toBe(account)
  })

  test('is bounded, however many leave in debt', () => {
    const accounts = new RateAccounts()
    for (let index = 0; index < 3000; index++) {
      accounts.open(`${index}`, limits, 0).charge('read', MIB, 0)
      accounts.release(`${index}`, 0)
    }
    expect(accounts.size).toBe(1024)
  })
})

test.each([
  [{}, false],
  [{ readBytesPerSecond: undefined, iops: undefined }, false],
  [{ iops: 1 }, true],
  [{ writeBytesPerSecond: 1 }, true],
  [{ readBytesPerSecond: 1 }, true],
])('%j: is there a limit? %s', (limits, expected) => {
  expect(isLimited(limits)).toBe(expected)
})
