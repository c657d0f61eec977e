import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createLog, type Log } from './log.ts'
import type { LogLevel } from './program-options.ts'

let directory: string
let path: string
let descriptor: number

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'log-'))
  path = join(directory, 'log')
  descriptor = openSync(path, 'a')
})

afterEach(() => {
  closeSync(descriptor)
  rmSync(directory, { recursive: true })
})

const END = 'The end of the test'

/** What a logger writes, without the line that marks the end. */
async function written(
  readable: boolean,
  use: (log: Log) => void,
  level: LogLevel = 'debug',
): Promise<string[]> {
  const log = createLog(level, descriptor, readable)
  use(log)
  log.error({}, END)
  const text = await vi.waitFor(
    () => {
      const content = readFileSync(path, 'utf8')
      expect(content).toContain(END)
      return content
    },
    { interval: 2 },
  )
  return text.split('\n').slice(0, -2)
}

async function fieldsOf(use: (log: Log) => void): Promise<Record<string, unknown>> {
  const [line = ''] = await written(false, use)
  return JSON.parse(line)
}

const OVERRIDE = '\u202e'
const CSI = '\u009b'

describe('JSON lines', () => {
  test('carry the level as a word, an ISO time, the fields and the message, and nothing else', async () => {
    const before = Date.now()
    const line = await fieldsOf(log =>
      log.warn({ client: '10.0.0.7', size: 1, ok: true, none: null }, 'Hello'),
    )
    expect(line).toEqual({
      level: 'warn',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      client: '10.0.0.7',
      size: 1,
      ok: true,
      none: null,
      msg: 'Hello',
    })
    expect(Date.parse(String(line.time))).toBeGreaterThanOrEqual(before)
  })

  test.each<[LogLevel, string[]]>([
    ['error', ['error']],
    ['warn', ['error', 'warn']],
    ['info', ['error', 'warn', 'info']],
    ['debug', ['error', 'warn', 'info', 'debug']],
  ])('at level %s', async (level, expected) => {
    const lines = await written(
      false,
      log => {
        log.error({}, 'x')
        log.warn({}, 'x')
        log.info({}, 'x')
        log.debug({}, 'x')
      },
      level,
    )
    expect(lines.map(line => JSON.parse(line).level)).toEqual(expected)
  })

  test('come in order', async () => {
    const lines = await written(false, log => {
      for (let n = 0; n < 5000; n++) log.info({ n }, 'Line')
    })
    expect(lines.map(line => JSON.parse(line).n)).toEqual(Array.from({ length: 5000 }, (_, n) => n))
  })

  test('hold no character that a terminal obeys, and yet give back the value', async () => {
    const name = `a\u001b[31m\n\u007f${CSI}2J${OVERRIDE}\u2028\u{e0041}"\\é漢🙂`
    const [line = ''] = await written(false, log => log.info({ name }, 'x'))
    expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
    expect(line).toContain('é漢🙂')
    expect(JSON.parse(line).name).toBe(name)
  })

  test('describe an error wherever it stands, with its code, frames and causes', async () => {
    const cause = Object.assign(new Error('No space left'), { code: 'ENOSPC' })
    const error = new TypeError('Making the disk failed', { cause })
    const { err, other } = await fieldsOf(log => log.error({ err: error, other: error }, 'x'))
    expect(err).toMatchObject({
      type: 'TypeError',
      message: 'Making the disk failed',
      cause: { type: 'Error', message: 'No space left', code: 'ENOSPC' },
    })
    expect((err as { stack: string[] }).stack[0]).toMatch(/^at .*log\.test\.ts:\d+:\d+/)
    expect(other).toEqual(err)
  })

  test('describe an error whose causes form a circle', async () => {
    const error = new Error('a')
    error.cause = error
    const { err } = await fieldsOf(log => log.error({ err: error }, 'x'))
    expect(err).toMatchObject({ message: 'a', cause: { message: 'a' } })
  })

  test('take no frames from the message of an error', async () => {
    const { err } = await fieldsOf(log =>
      log.error({ err: new Error('x\n    at forged (nowhere:1:1)') }, 'x'),
    )
    expect((err as { stack: string[] }).stack.join()).not.toContain('forged')
  })

  test.each<[string, unknown]>([
    ['a long string', 'x'.repeat(100_000)],
    ['a string of control characters', '\u0001'.repeat(100_000)],
    ['a long list', Array.from({ length: 10_000 }, () => 'x'.repeat(100))],
    ['many fields', Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`field${n}`, n]))],
    ['a long field name', { ['x'.repeat(100_000)]: 1 }],
    ['a deep value', Array.from({ length: 1000 }).reduce(inner => [inner], 'x')],
    ['a buffer', Buffer.alloc(100_000)],
    ['a long error', new Error('x'.repeat(100_000))],
    ['a large integer', 10n ** 5000n],
  ])('bound %s', async (_, value) => {
    const [line = ''] = await written(false, log => log.info({ value }, 'x'))
    expect(JSON.parse(line).msg).toBe('x')
    expect(line.length).toBeLessThan(16_000)
  })

  test('say how much was cut', async () => {
    expect((await fieldsOf(log => log.info({ name: 'x'.repeat(600) }, 'x'))).name).toBe(
      `${'x'.repeat(512)}…(+88)`,
    )
  })

  test('bound the message, and take no format from it', async () => {
    expect((await fieldsOf(log => log.info({}, `%s %d %o${'x'.repeat(10_000)}`))).msg).toMatch(
      /^%s %d %ox{504}…\(\+9496\)$/,
    )
  })
})

describe('readable lines', () => {
  test('show time, level, message and fields', async () => {
    const lines = await written(true, log => {
      log.info(
        { listen: ['[::1]:10809'], client: '10.0.0.7', size: 1, name: 'with space', empty: '' },
        'Hello',
      )
      log.error({}, 'x')
    })
    expect(lines[0]).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} INFO {2}Hello listen=\["\[::1\]:10809"\] client=10\.0\.0\.7 size=1 name="with space" empty=""$/,
    )
    expect(lines[1]).toMatch(/^\d\d:\d\d:\d\d\.\d{3} ERROR x$/)
  })

  test('show an error with its causes, and its frames only if the line is an error', async () => {
    const cause = Object.assign(new Error('No space left'), { code: 'ENOSPC' })
    const err = new Error('Making the disk failed', { cause })
    const lines = await written(true, log => {
      log.warn({ err }, 'x')
      log.error({ err }, 'x')
    })
    expect(lines[0]).toMatch(/ WARN {2}x err="Making the disk failed: No space left \(ENOSPC\)"$/)
    expect(lines[1]).toMatch(/ ERROR x err="Making the disk failed: No space left \(ENOSPC\)"$/)
    expect(lines[2]).toMatch(/^ {4}at .*log\.test\.ts:\d+:\d+/)
  })

  test('escape what a client could inject', async () => {
    const name = `x" level=error\n12:00:00.000 ERROR forged\u001b[2J${CSI}2J${OVERRIDE}\u2028`
    const lines = await written(true, log => {
      log.info({ name, list: [name], err: new Error(name) }, `Message ${name}`)
    })
    expect(lines).toHaveLength(1)
    expect(lines[0]).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
    expect(lines[0]).toContain('name="x\\" level=error\\n12:00:00.000 ERROR forged\\u001b[2J')
  })

  test('stay one line of safe characters whatever the values are', async () => {
    const values = fc.sample(fc.dictionary(fc.string({ unit: 'binary' }), fc.anything(), { maxKeys: 5 }), 80)
    const lines = await written(true, log => {
      for (const fields of values) log.info({ ...fields }, 'x')
    })
    expect(lines).toHaveLength(values.length)
    expect(lines.join('')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
  })
})
