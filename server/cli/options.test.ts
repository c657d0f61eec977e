import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hasFlag, type OptionTable, parseOptions, UsageError } from './options.ts'

const group = 'Options'
const TABLE = {
  verbose: { group, kind: 'flag', short: 'v', help: '' },
  help: { group, kind: 'flag', short: 'h', help: '' },
  size: {
    group,
    kind: 'text',
    placeholder: 'N',
    help: '',
    parse: text => {
      if (!/^\d+$/.test(text)) throw new UsageError(`"${text}" is not a number.`)
      return Number(text)
    },
  },
  level: {
    group,
    kind: 'text',
    placeholder: 'L',
    help: '',
    default: 'low',
    parse: text => text.toUpperCase(),
  },
  wait: { group, kind: 'optional value', placeholder: 'S', help: '', parse: text => text ?? 'forever' },
  var: { group, kind: 'repeatable', placeholder: 'K=V', help: '', parse: text => text },
} as const satisfies OptionTable

const parse = (...argv: string[]) => parseOptions(TABLE, argv)

describe('values', () => {
  test('absent options have their defaults', () => {
    expect(parse()).toEqual({ verbose: false, help: false, level: 'LOW', var: [] })
  })

  test('a value follows as the next argument or after an equals sign', () => {
    expect(parse('--size', '1').size).toBe(1)
    expect(parse('--size=1').size).toBe(1)
    expect(parse('--var', 'a=b').var).toEqual(['a=b'])
    expect(parse('--var=a=b=').var).toEqual(['a=b='])
  })

  test('a value may be empty and may begin with one dash', () => {
    expect(parse('--var', '', '--var=').var).toEqual(['', ''])
    expect(parse('--var', '-1', '--var', '-').var).toEqual(['-1', '-'])
    expect(parse('--var=--x').var).toEqual(['--x'])
  })

  test('an optional value comes after an equals sign only', () => {
    expect(parse('--wait').wait).toBe('forever')
    expect(parse('--wait=30').wait).toBe('30')
    expect(parse('--wait=').wait).toBe('')
    expect(parse('--wait', '--verbose')).toMatchObject({ wait: 'forever', verbose: true })
  })

  test('a repeatable option keeps the order', () => {
    expect(parse('--var', 'b', '--size=1', '--var', 'a', '--var', 'b').var).toEqual(['b', 'a', 'b'])
  })

  test('a letter stands for a flag', () => {
    expect(parse('-v').verbose).toBe(true)
    expect(parse('-vh')).toMatchObject({ verbose: true, help: true })
  })

  test('lists of two parses are not the same list', () => {
    expect(parse('--var=a').var).toEqual(['a'])
    expect(parse().var).toEqual([])
  })

  test('any values come back as they were given', () => {
    const value = fc.string({ unit: 'binary' }).filter(text => !text.startsWith('--'))
    fc.assert(
      fc.property(fc.array(fc.tuple(value, fc.boolean()), { maxLength: 8 }), given => {
        const argv = given.flatMap(([text, inline]) => (inline ? [`--var=${text}`] : ['--var', text]))
        expect(parse(...argv).var).toEqual(given.map(([text]) => text))
      }),
    )
  })
})

describe('failures', () => {
  test.each([
    [['--sise', '1'], 'Unknown option --sise. Did you mean --size?'],
    [['--szie=1'], 'Unknown option --szie. Did you mean --size?'],
    [['--verb'], 'Unknown option --verb. Did you mean --verbose?'],
    [['-size', '1'], 'Unknown option -size. Did you mean --size?'],
    [['--colour'], 'Unknown option --colour. See --help for the options.'],
    [['-x'], 'Unknown option -x. See --help for the options.'],
    [['--=x'], 'Unknown option --. See --help for the options.'],
    [['--no-verbose'], 'Unknown option --no-verbose. Did you mean --verbose?'],
    [['--toString'], 'Unknown option --toString. See --help for the options.'],
    [['--__proto__=1'], 'Unknown option --__proto__. See --help for the options.'],
    [['--size'], '--size needs a value: --size N.'],
    [
      ['--size', '--verbose'],
      '--size needs a value, but "--verbose" follows. If that is the value, write --size=N.',
    ],
    [['--size', '--'], '--size needs a value, but "--" follows. If that is the value, write --size=N.'],
    [['--size', '1', '--size=1'], '--size is given twice.'],
    [['--verbose', '-v'], '--verbose is given twice.'],
    [['--wait', '--wait=1'], '--wait is given twice.'],
    [['--verbose=yes'], '--verbose takes no value, but is given "yes".'],
    [['--verbose='], '--verbose takes no value, but is given "".'],
    [['--size', '-1'], '--size: "-1" is not a number.'],
    [['--size='], '--size: "" is not a number.'],
    [['file'], 'Unexpected argument "file". Only options are expected here.'],
    [['-'], 'Unexpected argument "-". Only options are expected here.'],
    [['--', '--size'], 'Unexpected argument "--size". Only options are expected here.'],
    [['--wait', '30'], 'Unexpected argument "30". The value of --wait goes after an equals sign: --wait=S.'],
  ])('%j', (argv, message) => {
    expect(() => parse(...argv)).toThrow(new UsageError(message))
  })

  test('-- alone is allowed', () => {
    expect(parse('--verbose', '--').verbose).toBe(true)
  })

  test('a usage error has its code and the cause', () => {
    try {
      parse('--size=x')
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ name: 'UsageError', code: 'EUSAGE', cause: expect.any(UsageError) })
    }
  })

  test('a defect in a parser is not taken for a bad value', () => {
    const broken = {
      size: { group, kind: 'text', placeholder: 'N', help: '', parse: () => null as unknown as string },
      bad: {
        group,
        kind: 'text',
        placeholder: 'N',
        help: '',
        parse: () => {
          throw new RangeError('defect')
        },
      },
    } as const satisfies OptionTable
    expect(() => parseOptions(broken, ['--bad=1'])).toThrow(RangeError)
  })

  test('whatever the arguments are, the failure is a short usage error on one line', () => {
    const word = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 2000 }),
      fc.constantFrom('--', '-', '--size', '--wait', '--var', '-v', '-h', '--size=', '--level'),
      fc.string({ unit: 'binary' }).map(text => `--${text}`),
      fc.string({ unit: 'binary' }).map(text => `--size=${text}\n`),
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), argv => {
        try {
          parse(...argv)
        } catch (error) {
          if (!(error instanceof UsageError)) throw error
          expect(error.message).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
          expect(error.message.length).toBeLessThan(3000)
        }
      }),
      { numRuns: 300 },
    )
  })

  test('a very long unknown option is cut', () => {
    expect(() => parse(`--${'x'.repeat(100_000)}`)).toThrow(
      /^Unknown option --x{78}…\(\+99922\)\. See --help/,
    )
  })
})

test('a flag is seen whatever is wrong with the other arguments', () => {
  expect(hasFlag(TABLE, ['--bogus', '-h', '--size'], 'help')).toBe(true)
  expect(hasFlag(TABLE, ['--size', '--help'], 'help')).toBe(false)
  expect(hasFlag(TABLE, ['--', '--help'], 'help')).toBe(false)
})
