import { readdirSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { admits } from '../../crds/access-rules.ts'
import { UsageError } from './options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'
import { addressesToBind, parseServeOptions } from './serve-options.ts'

const parse = (...argv: string[]) => parseServeOptions(['--dir=d', '--size=1G', ...argv])

test('the least that is needed gives the documented defaults', () => {
  expect(parseServeOptions(['--dir', 'exports', '--size', '1G'])).toEqual({
    dir: 'exports',
    temporary: false,
    newDisk: {
      size: 2 ** 30,
      maxSize: undefined,
      content: { kind: 'filesystem', type: 'ext4', label: undefined, mkfsOptions: [] },
    },
    create: true,
    commandTimeoutMs: 600_000,
    disks: undefined,
    maxDisks: undefined,
    names: 'strict',
    listen: [],
    unix: undefined,
    handshakeTimeoutMs: 10_000,
    access: { allow: [], deny: [] },
    readOnly: false,
    waitMs: 0,
    connectionsPerDisk: 1,
    maxConnections: 4096,
    maxConnectionsPerClient: 4096,
    limits: {},
    list: true,
    oldstyle: false,
    tls: undefined,
    metrics: undefined,
    logLevel: 'info',
  })
})

test('every option reaches the result', () => {
  const options = parseServeOptions(
    [
      '--dir=d --size=512M --max-size 4G --type xfs --label data --mkfs-option=-m --mkfs-option reflink=0',
      '--command-timeout 90s --disks m --max-disks 7 --names relaxed --listen 0.0.0.0:1 --listen [::]:2',
      '--unix u.sock --handshake-timeout 500ms --allow 10.0.0.0/8 --allow unix --deny 10.0.0.1 --read-only',
      '--wait=30 --connections-per-disk 4 --max-connections 100 --max-connections-per-client 5 --no-list',
      '--read-bps 10M --write-bps 1G --iops 500 --metrics 127.0.0.1:9100 --log-level debug',
    ].flatMap(line => line.split(' ')),
  )
  expect(options).toMatchObject({
    dir: 'd',
    newDisk: {
      size: 512 * 2 ** 20,
      maxSize: 4 * 2 ** 30,
      content: { kind: 'filesystem', type: 'xfs', label: 'data', mkfsOptions: ['-m', 'reflink=0'] },
    },
    commandTimeoutMs: 90_000,
    disks: 'm',
    maxDisks: 7,
    names: 'relaxed',
    listen: [
      { host: '0.0.0.0', port: 1 },
      { host: '::', port: 2 },
    ],
    unix: 'u.sock',
    handshakeTimeoutMs: 500,
    readOnly: true,
    waitMs: 30_000,
    connectionsPerDisk: 4,
    maxConnections: 100,
    maxConnectionsPerClient: 5,
    limits: { readBytesPerSecond: 10 * 2 ** 20, writeBytesPerSecond: 2 ** 30, iops: 500 },
    list: false,
    metrics: { host: '127.0.0.1', port: 9100 },
    logLevel: 'debug',
  })
  expect(admits(options.access, { kind: 'ip', address: '10.0.0.2' })).toBe(true)
  expect(admits(options.access, { kind: 'ip', address: '10.0.0.1' })).toBe(false)
  expect(admits(options.access, { kind: 'ip', address: '192.0.2.1' })).toBe(false)
  expect(admits(options.access, { kind: 'unix' })).toBe(true)
})

describe('which disks are made on demand', () => {
  test('by a command with its variables, in the order given', () => {
    const { newDisk } = parse('--command', 'cp "$base" "$disk"', '--var', 'base=/b', '--var', 'a=')
    expect(newDisk?.content).toEqual({
      kind: 'command',
      command: 'cp "$base" "$disk"',
      variables: new Map([
        ['base', '/b'],
        ['a', ''],
      ]),
    })
  })

  test('none with --no-create, with or without --size', () => {
    expect(parseServeOptions(['--dir=d', '--no-create']).newDisk).toBeUndefined()
    expect(parse('--no-create', '--type=xfs', '--max-size=2G').newDisk).toBeUndefined()
  })

  test('none with --disks alone, but with --size', () => {
    expect(parseServeOptions(['--dir=d', '--disks=m']).newDisk).toBeUndefined()
    expect(parse('--disks=m').newDisk?.size).toBe(2 ** 30)
  })

  test('--max-size may equal --size', () => {
    expect(parse('--max-size=1024M').newDisk?.maxSize).toBe(2 ** 30)
  })

  test('--temporary needs no --dir, and --size 0 if a command decides', () => {
    expect(parseServeOptions(['--temporary', '--size=1M'])).toMatchObject({ dir: undefined, temporary: true })
    expect(parseServeOptions(['--temporary', '--dir=d', '--size=1M']).dir).toBe('d')
    expect(parseServeOptions(['--temporary', '--size=0', '--command=x']).newDisk?.size).toBe(0)
  })
})

describe('waiting', () => {
  test.each([
    [[], 0],
    [['--wait'], 'unlimited'],
    [['--wait=30'], 30_000],
    [['--wait=1.5'], 1500],
    [['--wait=2m'], 120_000],
  ])('%j', (argv, expected) => {
    expect(parse(...argv).waitMs).toBe(expected)
  })
})

describe('addresses to bind', () => {
  const loopback = [
    { host: '127.0.0.1', port: 10_809, optional: false },
    { host: '::1', port: 10_809, optional: true },
  ]

  test('loopback, where IPv6 may be missing, if nothing else is said', () => {
    expect(addressesToBind(parse(), 0)).toEqual(loopback)
  })

  test('none of its own beside a unix socket or activated sockets', () => {
    expect(addressesToBind(parse('--unix=s'), 0)).toEqual([])
    expect(addressesToBind(parse(), 1)).toEqual([])
  })

  test('what was asked for in any case, and all of it', () => {
    const expected = [{ host: '::1', port: 0, optional: false }]
    expect(addressesToBind(parse('--listen=[::1]:0'), 0)).toEqual(expected)
    expect(addressesToBind(parse('--listen=[::1]:0', '--unix=s'), 1)).toEqual(expected)
  })

  test('several free ports of one host', () => {
    expect(parse('--listen=[::1]:0', '--listen=[::1]:0').listen).toHaveLength(2)
  })
})

test('one client may have no more connections than all clients', () => {
  expect(parse('--max-connections=10').maxConnectionsPerClient).toBe(10)
  expect(parse('--max-connections=10', '--max-connections-per-client=20').maxConnectionsPerClient).toBe(10)
})

describe('refused', () => {
  test.each<[string, RegExp]>([
    ['', /^--dir is missing\. Give the directory/],
    ['--size=1G', /^--dir is missing/],
    ['--dir=d', /^--size is missing\. Give the size/],
    ['--dir= --size=1G', /^--dir: The value is empty/],
    ['--temporary', /^--size is missing/],
    ['--dir=d --size=0', /^--size: 0 is possible with --temporary and --command only/],
    ['--dir=d --size=0 --command=x', /^--size: 0 is possible/],
    ['--temporary --size=0', /^--size: 0 is possible/],
    ['--dir=d --size=-1', /^--size: "-1" is not a size/],
    ['--dir=d --size -1', /^--size: "-1" is not a size/],
    ['--dir=d --size=1X', /^--size: "1X" is not a size/],
    ['--dir=d --size=', /^--size: "" is not a size/],
    ['--dir=d --size=8P', /^--size: "8P" is too large/],
    ['--dir=d --size=99999999999999999999', /^--size: .* is too large/],
    ['--dir=d --size=1G --size=2G', /^--size is given twice/],
    ['--dir=d --size=1G --max-size=1023M', /^--max-size: 1072693248 bytes are less than --size/],
    ['--dir=d --size=1G --max-size=0', /^--max-size: "0" is too small/],
    ['--dir=d --disks=m --max-size=1G', /^--max-size needs --size/],
    ['--dir=d --disks=m --command=x', /^--command needs --size/],
    ['--dir=d --disks=m --type=xfs', /^--type needs --size/],
    ['--dir=d --no-create --max-disks=3', /^--max-disks needs --size/],
    ['--temporary --size=1G --no-create', /^--temporary and --no-create exclude each other/],
    ['--temporary --size=1G --disks=m', /^--temporary and --disks exclude each other/],
    ['--temporary --size=1G --max-disks=1', /^--temporary and --max-disks exclude each other/],
    ['--dir=d --size=1G --command=x --type=ext4', /^--command and --type exclude each other/],
    ['--dir=d --size=1G --command=x --label=l', /^--command and --label exclude each other/],
    ['--dir=d --size=1G --command=x --mkfs-option=-F', /^--command and --mkfs-option exclude each other/],
    ['--dir=d --size=1G --command=', /^--command: The value is empty/],
    ['--dir=d --size=1G --var=a=b', /^--var needs --command/],
    ['--dir=d --size=1G --command=x --var=disk=d', /^--var: The variable disk is set by the server/],
    ['--dir=d --size=1G --command=x --var=size=1', /^--var: The variable size is set by the server/],
    ['--dir=d --size=1G --command=x --var=a-b=1', /^--var: "a-b" is not a shell identifier/],
    ['--dir=d --size=1G --command=x --var=a=1 --var=a=2', /^--var: "a" is given twice/],
    ['--dir=d --size=1G --command-timeout=0', /^--command-timeout: "0" is too short/],
    ['--dir=d --size=1G --type=../sh', /^--type: "\.\.\/sh" is not a filesystem type/],
    ['--dir=d --size=1G --label=seventeen-letters', /^--label: "seventeen-letters" is too long for ext4/],
    ['--dir=d --size=1G --type=vfat --label=twelve-chars', /^--label: .* is too long for vfat/],
    ['--dir=d --size=1G --names=loose', /^--names: "loose" is none of strict, relaxed/],
    ['--dir=d --size=1G --listen=10809', /^--listen: "10809" is not HOST:PORT/],
    ['--dir=d --size=1G --listen=[::1]:1 --listen=[::1]:1', /^--listen: "::1 port 1" is given twice/],
    ['--dir=d --size=1G --unix=', /^--unix: The value is empty/],
    ['--dir=d --size=1G --allow=10.0.0.0/33', /^--allow: "10\.0\.0\.0\/33" is not an access rule/],
    ['--dir=d --size=1G --allow=any --deny=nobody', /^--deny: "nobody" is not an access rule/],
    ['--dir=d --size=1G --allow=', /^--allow: The value is empty/],
    ['--dir=d --size=1G --deny=dn:*', /^--deny: "dn:\*" needs TLS/],
    ['--dir=d --size=1G --allow=dn:CN=a', /^--allow: "dn:CN=a" needs TLS/],
    ['--dir=d --size=1G --wait=0', /^--wait: "0" is too short/],
    ['--dir=d --size=1G --wait=', /^--wait: "" is not a duration/],
    ['--dir=d --size=1G --wait 30', /^Unexpected argument "30"\. The value of --wait goes after/],
    ['--dir=d --size=1G --connections-per-disk=0', /^--connections-per-disk: "0" is not a whole number/],
    ['--dir=d --size=1G --max-connections=0', /^--max-connections: "0" is not a whole number/],
    ['--dir=d --size=1G --max-connections=1e9', /^--max-connections: "1e9" is not a whole number/],
    ['--dir=d --size=1G --max-connections-per-client=-1', /^--max-connections-per-client: "-1" is not/],
    ['--dir=d --size=1G --read-bps=0', /^--read-bps: "0" is too small/],
    ['--dir=d --size=1G --write-bps=10MB/s', /^--write-bps: "10MB\/s" is not a size/],
    ['--dir=d --size=1G --iops=0', /^--iops: "0" is not a whole number from 1 to 1000000000/],
    ['--dir=d --size=1G --metrics=9100', /^--metrics: "9100" is not HOST:PORT/],
    ['--dir=d --size=1G --max-disks=0', /^--max-disks: "0" is not a whole number/],
    ['--dir=d --size=1G --log-level=loud', /^--log-level: "loud" is none of error, warn, info, debug/],
    ['--dir=d --size=1G exports', /^Unexpected argument "exports"/],
  ])('%s', (line, message) => {
    const argv = line === '' ? [] : line.split(' ')
    expect(() => parseServeOptions(argv)).toThrow(UsageError)
    expect(() => parseServeOptions(argv)).toThrow(message)
  })

  test.each([
    [['--tls-cert', 'c'], '--tls-cert needs --tls on or --tls require.'],
    [['--tls', 'on'], '--tls on needs --tls-cert and --tls-key, or --tls-psk, or --tls-dir.'],
    [['--tls', 'on', '--tls-cert', 'c'], '--tls-cert and --tls-key belong together: give both.'],
    [
      ['--tls', 'require', '--tls-psk', 'p', '--tls-client-ca', 'a'],
      '--tls-client-ca needs --tls-cert and --tls-key.',
    ],
    [['--tls', 'maybe'], '--tls: "maybe" is none of off, on, require.'],
  ])('TLS that cannot work: %j', (more, message) => {
    expect(() => parseServeOptions(['--dir', 'd', '--size', '1G', ...more])).toThrow(message)
  })

  test.each([
    [['--upstream', 'x'], /^--upstream: "x" is not the URI/],
    [['--upstream', 'nbd://host', '--dir', 'd'], '--upstream and --dir exclude each other.'],
    [['--upstream', 'nbd://host', '--backend', 'memory'], '--upstream and --backend exclude each other.'],
    [['--upstream', 'nbd://host/alice'], /^--upstream: the URI names the export "alice"/],
    [['--upstream', 'nbd://host', '--upstream-shared'], /^--upstream-shared needs --upstream-export/],
    [['--upstream-export', 'alice'], '--upstream-export needs --upstream.'],
    [['--backend', 'memory', '--size', '1G'], '--backend and --size exclude each other.'],
    [
      ['--dir', 'd', '--size', '1G', 'size=1G'],
      'Unexpected argument "size=1G". Only options are expected here.',
    ],
  ])('backends that cannot be: %j', (argv, message) => {
    expect(() => parseServeOptions(argv)).toThrow(message)
  })

  test('what follows --backend are its settings', () => {
    const { module } = parseServeOptions(['--backend', './mine.ts', 'a=1', '--read-only', 'b=2'])
    expect(module).toEqual({ name: './mine.ts', settings: ['a=1', 'b=2'] })
  })

  test('an upstream is forwarded to by name, or with all names', () => {
    const { upstream } = parseServeOptions(['--upstream', 'nbd://host:1', '--upstream-export', 'alice'])
    expect(upstream).toMatchObject({
      fixed: true,
      shared: false,
      retryMs: 30_000,
      uri: { exportName: 'alice' },
    })
    expect(parseServeOptions(['--upstream', 'nbd://host:1']).upstream?.fixed).toBe(false)
  })
})

test('arguments at random are parsed or refused on one line, and nothing is created', () => {
  const before = readdirSync('.')
  const name = fc.constantFrom(...Object.keys(SERVE_OPTIONS))
  const value = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('0', '1', '1G', '-1', '10s', 'any', '::1', '[::1]:0', 'a=b', 'disk=x', 'ext4', 'd'),
  )
  const argument = fc.oneof(
    name.map(option => `--${option}`),
    fc.tuple(name, value).map(([option, text]) => `--${option}=${text}`),
    value,
  )
  fc.assert(
    fc.property(fc.array(argument, { maxLength: 12 }), argv => {
      try {
        const options = parseServeOptions(['--dir=made-by-test', '--size=1G', ...argv])
        expect(options.newDisk === undefined || options.newDisk.size >= 0).toBe(true)
      } catch (error) {
        if (!(error instanceof UsageError)) throw error
        expect(error.message).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
      }
    }),
    { numRuns: 200 },
  )
  expect(readdirSync('.')).toEqual(before)
})
