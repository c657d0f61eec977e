import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { RateAccount, type RateLimits } from '../access/rate-limit.ts'
import { ExportMeter } from '../metrics/export-meter.ts'
import { TrafficRecorder } from '../metrics/traffic-recorder.ts'
import { Request } from './request.ts'
import { READ, WRITE } from './test-client.ts'
import { Throttle, type ThrottledChannel, ThrottledClientGone } from './throttle.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function setUp(limits: RateLimits = { readBytesPerSecond: 1000, writeBytesPerSecond: 1000 }) {
  const account = new RateAccount(limits, performance.now())
  const meter = new ExportMeter()
  const channel = {
    peerState: 'there' as ThrottledChannel['peerState'],
    destroy: vi.fn<(error: Error) => void>(),
  }
  const resume = vi.fn<() => void>()
  const throttle = new Throttle([account], channel, new TrafficRecorder(meter), resume)
  const admits = (type: number, length: number, refusal = 0) =>
    throttle.admits(Object.assign(new Request(), { type, length, refusal, startedAt: performance.now() }))
  return { account, meter, channel, resume, throttle, admits }
}

test('a request that has waited is charged once', () => {
  const { throttle, admits, resume, meter } = setUp()
  expect(admits(READ, 1250)).toBe(true)
  expect(admits(READ, 500)).toBe(false)
  expect(throttle.waiting).toBe(true)
  vi.advanceTimersByTime(999)
  expect(resume).not.toHaveBeenCalled()
  vi.advanceTimersByTime(2)
  expect(resume).toHaveBeenCalledTimes(1)
  expect(throttle.waiting).toBe(false)
  expect(admits(READ, 500)).toBe(true)
  expect(admits(READ, 1)).toBe(false)
  vi.advanceTimersByTime(501)
  expect(admits(READ, 1)).toBe(true)
  expect(meter.throttledSeconds).toBeCloseTo(1.5, 1)
})

test('a refused READ costs no bytes; a refused WRITE does, since its payload comes all the same', () => {
  const { admits } = setUp()
  expect(admits(READ, 2 ** 32, 22)).toBe(true)
  expect(admits(READ, 2 ** 32, 22)).toBe(true)
  expect(admits(WRITE, 2 ** 20, 22)).toBe(true)
  expect(admits(WRITE, 1, 22)).toBe(false)
})

test('without limits nothing ever waits', () => {
  const { admits } = setUp({})
  for (let index = 0; index < 100; index++) expect(admits(READ, 2 ** 25)).toBe(true)
})

describe('whoever waits goes on', () => {
  test('when the limits change, and is not charged again', () => {
    const { account, throttle, admits, resume } = setUp()
    admits(READ, 1_000_000)
    expect(admits(READ, 100)).toBe(false)
    account.setLimits({ readBytesPerSecond: 1_000_000 }, performance.now())
    throttle.limitsChanged()
    expect(resume).toHaveBeenCalledTimes(1)
    expect(admits(READ, 100)).toBe(true)
    expect(admits(READ, 100)).toBe(false)
    vi.advanceTimersByTime(1001)
    expect(admits(READ, 100)).toBe(true)
  })

  test('when the limits are lifted, and begin anew', () => {
    const { account, throttle, admits } = setUp()
    admits(READ, 1_000_000)
    expect(admits(READ, 100)).toBe(false)
    account.setLimits({}, performance.now())
    throttle.limitsChanged()
    expect(admits(READ, 1_000_000)).toBe(true)
    expect(admits(READ, 1_000_000)).toBe(true)
    account.setLimits({ readBytesPerSecond: 1000 }, performance.now())
    throttle.limitsChanged()
    expect(admits(READ, 1000)).toBe(true)
    expect(admits(READ, 1000)).toBe(false)
  })

  test('when the connection ends or the server stops', () => {
    const { throttle, admits, resume } = setUp()
    admits(READ, 1_000_000)
    expect(admits(READ, 100)).toBe(false)
    throttle.end()
    expect(resume).toHaveBeenCalledTimes(1)
    expect(vi.getTimerCount()).toBe(0)
    expect(admits(READ, 1_000_000)).toBe(true)
    throttle.end()
    expect(resume).toHaveBeenCalledTimes(1)
  })
})

describe('a client that is held back', () => {
  const YEAR = 365 * 24 * 3600 * 1000

  test('is cut off within a second once it has gone', () => {
    const { channel, admits, resume } = setUp({ readBytesPerSecond: 1 })
    admits(READ, 2 ** 25)
    expect(admits(READ, 1)).toBe(false)
    vi.advanceTimersByTime(60_000)
    expect(channel.destroy).not.toHaveBeenCalled()
    channel.peerState = 'gone'
    vi.advanceTimersByTime(1000)
    expect(channel.destroy).toHaveBeenCalledExactlyOnceWith(expect.any(ThrottledClientGone))
    expect(resume).not.toHaveBeenCalled()
  })

  test('is cut off ten seconds after it has sent its last byte', () => {
    const { channel, admits } = setUp({ readBytesPerSecond: 1 })
    admits(READ, 2 ** 25)
    expect(admits(READ, 1)).toBe(false)
    channel.peerState = 'finished'
    vi.advanceTimersByTime(10_000)
    expect(channel.destroy).not.toHaveBeenCalled()
    vi.advanceTimersByTime(2000)
    expect(channel.destroy).toHaveBeenCalledOnce()
  })

  test('may be held back for longer than a timer can count', () => {
    const { channel, admits, resume } = setUp({ readBytesPerSecond: 1 })
    admits(READ, YEAR / 1000)
    expect(admits(READ, 1)).toBe(false)
    vi.advanceTimersByTime(3_600_000)
    expect(resume).not.toHaveBeenCalled()
    expect(channel.destroy).not.toHaveBeenCalled()
  })
})
