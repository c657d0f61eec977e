import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Log, LogFields } from './log.ts'
import { type LimitedLog, limitLog } from './log-limit.ts'

let lines: { level: string; fields: LogFields; message: string }[]
let limited: LimitedLog

const record = (level: string) => (fields: LogFields, message: string) => {
  lines.push({ level, fields, message })
}
const log: Log = {
  error: record('error'),
  warn: record('warn'),
  info: record('info'),
  debug: record('debug'),
}

beforeEach(() => {
  vi.useFakeTimers()
  lines = []
  limited = limitLog(log)
})

afterEach(() => {
  limited.close()
  vi.useRealTimers()
})

const refuse = (client: string, times: number, message = 'Refused') => {
  for (let n = 0; n < times; n++) limited.warn({ client, n }, message)
}

test('the first ten lines of a client pass as they are', () => {
  refuse('10.0.0.1', 10)
  expect(lines).toEqual(
    Array.from({ length: 10 }, (_, n) => ({
      level: 'warn',
      fields: { client: '10.0.0.1', n },
      message: 'Refused',
    })),
  )
  vi.advanceTimersByTime(20_000)
  expect(lines).toHaveLength(10)
})

test('further ones are counted, and told in one line when the window ends', () => {
  refuse('10.0.0.1', 1000)
  expect(lines).toHaveLength(10)
  vi.advanceTimersByTime(9_999)
  expect(lines).toHaveLength(10)
  vi.advanceTimersByTime(1)
  expect(lines.slice(10)).toEqual([
    {
      level: 'warn',
      fields: { suppressed: 990, client: '10.0.0.1', repeated: 'Refused' },
      message: 'Suppressed repetitions',
    },
  ])
})

test('a new window begins with the next line', () => {
  refuse('10.0.0.1', 20)
  vi.advanceTimersByTime(10_000)
  refuse('10.0.0.1', 1)
  expect(lines).toHaveLength(12)
})

test('a noisy client does not silence another one, nor another message', () => {
  refuse('10.0.0.1', 50)
  refuse('10.0.0.2', 3)
  refuse('10.0.0.1', 2, 'Broke the protocol')
  expect(lines).toHaveLength(10 + 3 + 2)
})

test.each([
  ['10.0.0.1', '10.0.0.1:'],
  ['[2001:db8::1]', '[2001:db8::1]:'],
])('the connections of %s count together, whatever their ports are', (address, prefix) => {
  for (let port = 40_000; port < 40_020; port++) refuse(`${prefix}${port}`, 1)
  expect(lines).toHaveLength(10)
  vi.advanceTimersByTime(10_000)
  expect(lines[10]?.fields).toMatchObject({ suppressed: 10, client: address })
})

test('addresses that end alike are different clients', () => {
  for (let n = 0; n < 20; n++) refuse(`fe80::${n}`, 1)
  expect(lines).toHaveLength(20)
})

test('a client with many addresses is bounded as well', () => {
  for (let n = 0; n < 100_000; n++) refuse(`2001:db8::${n.toString(16)}`, 1)
  expect(lines).toHaveLength(100)
  vi.advanceTimersByTime(10_000)
  expect(lines).toHaveLength(101)
  expect(lines[100]?.fields).toEqual({ suppressed: 99_900, repeated: 'Refused' })
})

test('messages that vary, against the rule, are bounded as well', () => {
  for (let n = 0; n < 10_000; n++) refuse('10.0.0.1', 1, `Refused ${n}`)
  expect(lines).toHaveLength(64 + 10)
  vi.advanceTimersByTime(10_000)
  expect(lines.slice(74).map(line => line.fields)).toEqual([
    { suppressed: 9_926, client: '10.0.0.1', repeated: 'Other messages' },
  ])
  expect(vi.getTimerCount()).toBe(0)
})

test('every level is limited and keeps its level', () => {
  for (let n = 0; n < 11; n++) {
    limited.error({ client: 'a' }, 'e')
    limited.info({ client: 'a' }, 'i')
    limited.debug({ client: 'a' }, 'd')
  }
  limited.close()
  for (const level of ['error', 'info', 'debug']) {
    expect(lines.filter(line => line.level === level)).toHaveLength(11)
  }
})

test('lines below the level of the log are neither passed on nor counted', () => {
  const quiet = limitLog(log, { level: 'warn' })
  for (let n = 0; n < 11; n++) {
    quiet.error({ client: 'a' }, 'e')
    quiet.warn({ client: 'a' }, 'w')
    quiet.info({ client: 'a' }, 'i')
    quiet.debug({ client: 'a' }, 'd')
  }
  expect(vi.getTimerCount()).toBe(2)
  quiet.close()
  expect(lines.map(({ level }) => level)).toEqual([
    ...Array(10).fill(['error', 'warn']).flat(),
    'error',
    'warn',
  ])
})

test('close tells what is held back and leaves no timer', () => {
  refuse('10.0.0.1', 12)
  limited.close()
  expect(lines.at(-1)?.fields).toMatchObject({ suppressed: 2 })
  expect(vi.getTimerCount()).toBe(0)
})

test('lines without a client count together', () => {
  for (let n = 0; n < 12; n++) limited.warn({}, 'x')
  expect(lines).toHaveLength(10)
})
