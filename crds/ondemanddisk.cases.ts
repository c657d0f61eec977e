/**
 * Good and bad OnDemandDisks: one table for everything that judges them, the validation here as well as an
 * API server that has loaded the CRD.
 */

/** Who refuses a bad object: `openapi` every API server, `cel` one since 1.25, `program` our own check alone. */
export type RefusedBy = 'openapi' | 'cel' | 'program'

export interface GoodCase {
  readonly title: string
  readonly spec: object
  /** Default: `disk`. */
  readonly name?: string
}

export interface BadCase extends GoodCase {
  /** The field that the refusal names. */
  readonly field: string
  readonly by: RefusedBy
}

export interface TransitionCase {
  readonly title: string
  readonly before: object
  readonly after: object
  /** The field that must not change so; absent: the change is fine. */
  readonly field?: string
  readonly by?: RefusedBy
}

const size = '1Gi'
const upstream = { uri: 'nbd://example.org/disk' }

export const goodCases: readonly GoodCase[] = [
  { title: 'a size alone', spec: { size } },
  { title: 'a size in bytes', spec: { size: 1073741824 } },
  { title: 'a decimal size', spec: { size: '1.5G' } },
  { title: 'a size with an exponent', spec: { size: '1e9' } },
  { title: 'the largest size', spec: { size: 9007199254740991 } },
  {
    title: 'every field',
    spec: {
      poolName: 'fast',
      exportName: 'Büro Drucker',
      size: '10Gi',
      filesystem: { type: 'xfs', label: 'printer', mkfsOptions: ['-i', 'size=1024', '-m', 'reflink=0'] },
      mode: 'Persistent',
      readOnly: false,
      access: {
        allow: [
          '10.0.0.0/8',
          'fd00::/8',
          '::ffff:192.0.2.1',
          'unix',
          'anyipv4',
          'anyipv6',
          'any',
          'dn:CN=*, O=x',
        ],
        deny: ['10.9.0.0/16'],
        connections: 4,
      },
      limits: { readBytesPerSecond: '100Mi', writeBytesPerSecond: 52428800, iops: 5000 },
      reclaimPolicy: 'Retain',
    },
  },
  {
    title: 'an object name with dots and an export name without',
    name: 'a.b',
    spec: { size, exportName: 'ab' },
  },
  { title: 'empty objects in place of absent ones', spec: { size, filesystem: {}, access: {}, limits: {} } },
  {
    title: 'a command with variables',
    spec: {
      size: 0,
      mode: 'Temporary',
      command: 'cp "$base" "$disk"\n',
      variables: { base: '/t.img', _1: '', size: '9' },
    },
  },
  { title: 'an upstream', spec: { upstream } },
  {
    title: 'an upstream by address, port and TLS',
    spec: { upstream: { uri: 'nbds://[fd00::1]:10810/a/b' } },
  },
  {
    title: 'an upstream by UNIX socket',
    spec: { upstream: { uri: 'nbd+unix:///disk?socket=/run/nbd.sock' } },
  },
  { title: 'an ext4 label of 16 bytes', spec: { size, filesystem: { label: 'ü'.repeat(8) } } },
  {
    title: 'mkfs options with dots',
    spec: { size, filesystem: { mkfsOptions: ['.', '-m', '0.5', 'v1.2.'] } },
  },
  { title: 'a command in a Persistent disk', spec: { size, command: 'truncate -s $size "$disk"' } },
  { title: 'a CIDR with bits after its prefix', spec: { size, access: { allow: ['10.1.2.3/8'] } } },
]

export const badCases: readonly BadCase[] = [
  { title: 'no size', spec: {}, field: 'spec.size', by: 'openapi' },
  { title: 'a size that is no quantity', spec: { size: '1X' }, field: 'spec.size', by: 'openapi' },
  { title: 'a size with a blank', spec: { size: '1 Gi' }, field: 'spec.size', by: 'openapi' },
  { title: 'an empty size', spec: { size: '' }, field: 'spec.size', by: 'openapi' },
  { title: 'a negative size', spec: { size: -1 }, field: 'spec.size', by: 'openapi' },
  { title: 'a negative quantity', spec: { size: '-1Gi' }, field: 'spec.size', by: 'openapi' },
  { title: 'a broken size', spec: { size: 1.5 }, field: 'spec.size', by: 'openapi' },
  { title: 'a size of many digits', spec: { size: '1'.repeat(33) }, field: 'spec.size', by: 'openapi' },
  { title: 'a size of 8 PiB', spec: { size: 2 ** 53 }, field: 'spec.size', by: 'openapi' },
  { title: 'a size of 1 EiB', spec: { size: '1Ei' }, field: 'spec.size', by: 'program' },
  { title: 'a size of 0 without command', spec: { size: 0 }, field: 'spec.size', by: 'program' },
  { title: 'a size that is a list', spec: { size: ['1Gi'] }, field: 'spec.size', by: 'openapi' },
  { title: 'a size of true', spec: { size: true }, field: 'spec.size', by: 'openapi' },
  { title: 'an unknown field', spec: { size, sice: 1 }, field: 'spec.sice', by: 'program' },
  {
    title: 'an unknown field deep down',
    spec: { size, access: { alow: [] } },
    field: 'spec.access.alow',
    by: 'program',
  },
  {
    title: 'an unknown field with an odd name',
    spec: { size, 'a b': 1 },
    field: 'spec["a b"]',
    by: 'program',
  },
  {
    title: 'a pool name in capitals',
    spec: { size, poolName: 'Fast' },
    field: 'spec.poolName',
    by: 'openapi',
  },
  {
    title: 'a pool name of 64',
    spec: { size, poolName: 'a'.repeat(64) },
    field: 'spec.poolName',
    by: 'openapi',
  },
  { title: 'an empty export name', spec: { size, exportName: '' }, field: 'spec.exportName', by: 'openapi' },
  {
    title: 'a hidden export name',
    spec: { size, exportName: '.a' },
    field: 'spec.exportName',
    by: 'openapi',
  },
  {
    title: 'an export name with a slash',
    spec: { size, exportName: 'a/b' },
    field: 'spec.exportName',
    by: 'openapi',
  },
  {
    title: 'an export name with NUL',
    spec: { size, exportName: 'a\0b' },
    field: 'spec.exportName',
    by: 'openapi',
  },
  {
    title: 'an export name with C1',
    spec: { size, exportName: 'a\u0085b' },
    field: 'spec.exportName',
    by: 'openapi',
  },
  {
    title: 'a long export name',
    spec: { size, exportName: 'a'.repeat(256) },
    field: 'spec.exportName',
    by: 'openapi',
  },
  {
    title: 'a wide export name',
    spec: { size, exportName: 'ü'.repeat(128) },
    field: 'spec.exportName',
    by: 'program',
  },
  {
    title: 'an export name with a dot',
    spec: { size, exportName: 'a.b' },
    field: 'spec.exportName',
    by: 'program',
  },
  {
    title: 'an object name with a dot',
    name: 'a.b',
    spec: { size },
    field: 'spec.exportName',
    by: 'program',
  },
  {
    title: 'a filesystem type with a path',
    spec: { size, filesystem: { type: '../sh' } },
    field: 'spec.filesystem.type',
    by: 'openapi',
  },
  {
    title: 'a filesystem type in capitals',
    spec: { size, filesystem: { type: 'EXT4' } },
    field: 'spec.filesystem.type',
    by: 'openapi',
  },
  {
    title: 'a label with a line break',
    spec: { size, filesystem: { label: 'a\nb' } },
    field: 'spec.filesystem.label',
    by: 'openapi',
  },
  {
    title: 'an ext4 label of 17 bytes',
    spec: { size, filesystem: { label: `${'ü'.repeat(8)}x` } },
    field: 'spec.filesystem.label',
    by: 'program',
  },
  {
    title: 'an xfs label of 13 bytes',
    spec: { size, filesystem: { type: 'xfs', label: 'x'.repeat(13) } },
    field: 'spec.filesystem.label',
    by: 'program',
  },
  {
    title: 'an mkfs option with a path',
    spec: { size, filesystem: { mkfsOptions: ['-d', '/etc'] } },
    field: 'spec.filesystem.mkfsOptions[1]',
    by: 'openapi',
  },
  {
    title: 'an mkfs option that climbs',
    spec: { size, filesystem: { mkfsOptions: ['-d..'] } },
    field: 'spec.filesystem.mkfsOptions[0]',
    by: 'openapi',
  },
  {
    title: 'an empty mkfs option',
    spec: { size, filesystem: { mkfsOptions: [''] } },
    field: 'spec.filesystem.mkfsOptions[0]',
    by: 'openapi',
  },
  {
    title: '33 mkfs options',
    spec: { size, filesystem: { mkfsOptions: Array(33).fill('-q') } },
    field: 'spec.filesystem.mkfsOptions',
    by: 'openapi',
  },
  {
    title: 'mkfs options as one string',
    spec: { size, filesystem: { mkfsOptions: '-q' } },
    field: 'spec.filesystem.mkfsOptions',
    by: 'openapi',
  },
  { title: 'a blank command', spec: { size, command: ' \n' }, field: 'spec.command', by: 'openapi' },
  { title: 'a command with NUL', spec: { size, command: 'a\0' }, field: 'spec.command', by: 'openapi' },
  {
    title: 'a command of 8193 characters',
    spec: { size, command: 'x'.repeat(8193) },
    field: 'spec.command',
    by: 'openapi',
  },
  {
    title: 'command and filesystem',
    spec: { size, command: 'true', filesystem: {} },
    field: 'spec.filesystem',
    by: 'openapi',
  },
  {
    title: 'variables without command',
    spec: { size, variables: { a: '1' } },
    field: 'spec.variables',
    by: 'openapi',
  },
  {
    title: 'a variable named disk',
    spec: { size, command: 'true', variables: { disk: 'x' } },
    field: 'spec.variables["disk"]',
    by: 'cel',
  },
  {
    title: 'a variable that is no identifier',
    spec: { size, command: 'true', variables: { 'a-b': 'x' } },
    field: 'spec.variables["a-b"]',
    by: 'cel',
  },
  {
    title: 'a variable without a name',
    spec: { size, command: 'true', variables: { '': 'x' } },
    field: 'spec.variables[""]',
    by: 'cel',
  },
  {
    title: 'a variable that is a number',
    spec: { size, command: 'true', variables: { a: 1 } },
    field: 'spec.variables.a',
    by: 'openapi',
  },
  {
    title: 'a variable with NUL',
    spec: { size, command: 'true', variables: { a: '\0' } },
    field: 'spec.variables.a',
    by: 'openapi',
  },
  {
    title: '65 variables',
    spec: {
      size,
      command: 'true',
      variables: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`v${n}`, ''])),
    },
    field: 'spec.variables',
    by: 'openapi',
  },
  { title: 'an unknown mode', spec: { size, mode: 'temporary' }, field: 'spec.mode', by: 'openapi' },
  { title: 'readOnly as a string', spec: { size, readOnly: 'yes' }, field: 'spec.readOnly', by: 'openapi' },
  {
    title: 'a CIDR of three bytes',
    spec: { size, access: { allow: ['any', '10.0.0/8'] } },
    field: 'spec.access.allow[1]',
    by: 'program',
  },
  {
    title: 'a prefix of 33',
    spec: { size, access: { deny: ['10.0.0.1/33'] } },
    field: 'spec.access.deny[0]',
    by: 'program',
  },
  {
    title: 'a zone',
    spec: { size, access: { allow: ['fe80::1%eth0'] } },
    field: 'spec.access.allow[0]',
    by: 'openapi',
  },
  {
    title: 'a host name as a rule',
    spec: { size, access: { allow: ['localhost'] } },
    field: 'spec.access.allow[0]',
    by: 'openapi',
  },
  {
    title: 'a rule with blanks',
    spec: { size, access: { allow: [' any'] } },
    field: 'spec.access.allow[0]',
    by: 'openapi',
  },
  {
    title: 'an empty rule',
    spec: { size, access: { allow: [''] } },
    field: 'spec.access.allow[0]',
    by: 'openapi',
  },
  {
    title: 'a dn rule without a pattern',
    spec: { size, access: { allow: ['dn:'] } },
    field: 'spec.access.allow[0]',
    by: 'openapi',
  },
  {
    title: 'rules as one string',
    spec: { size, access: { allow: 'any' } },
    field: 'spec.access.allow',
    by: 'openapi',
  },
  {
    title: '129 rules',
    spec: { size, access: { allow: Array(129).fill('any') } },
    field: 'spec.access.allow',
    by: 'openapi',
  },
  {
    title: 'no connections at all',
    spec: { size, access: { connections: 0 } },
    field: 'spec.access.connections',
    by: 'openapi',
  },
  {
    title: '129 connections',
    spec: { size, access: { connections: 129 } },
    field: 'spec.access.connections',
    by: 'openapi',
  },
  {
    title: 'half a connection',
    spec: { size, access: { connections: 1.5 } },
    field: 'spec.access.connections',
    by: 'openapi',
  },
  {
    title: 'a rate of 0',
    spec: { size, limits: { readBytesPerSecond: 0 } },
    field: 'spec.limits.readBytesPerSecond',
    by: 'openapi',
  },
  {
    title: 'a rate of 0 as a quantity',
    spec: { size, limits: { writeBytesPerSecond: '0Mi' } },
    field: 'spec.limits.writeBytesPerSecond',
    by: 'program',
  },
  {
    title: 'a rate that is no quantity',
    spec: { size, limits: { writeBytesPerSecond: 'fast' } },
    field: 'spec.limits.writeBytesPerSecond',
    by: 'openapi',
  },
  {
    title: 'no requests at all',
    spec: { size, limits: { iops: 0 } },
    field: 'spec.limits.iops',
    by: 'openapi',
  },
  { title: 'an upstream without URI', spec: { upstream: {} }, field: 'spec.upstream.uri', by: 'openapi' },
  {
    title: 'an upstream by http',
    spec: { upstream: { uri: 'http://example.org/' } },
    field: 'spec.upstream.uri',
    by: 'openapi',
  },
  {
    title: 'an upstream without host',
    spec: { upstream: { uri: 'nbd:///disk' } },
    field: 'spec.upstream.uri',
    by: 'openapi',
  },
  {
    title: 'an upstream with a bad port',
    spec: { upstream: { uri: 'nbd://example.org:99999' } },
    field: 'spec.upstream.uri',
    by: 'program',
  },
  {
    title: 'an upstream without socket',
    spec: { upstream: { uri: 'nbd+unix:///disk' } },
    field: 'spec.upstream.uri',
    by: 'program',
  },
  {
    title: 'an upstream with a relative socket',
    spec: { upstream: { uri: 'nbd+unix:///?socket=a' } },
    field: 'spec.upstream.uri',
    by: 'program',
  },
  { title: 'upstream and size', spec: { upstream, size }, field: 'spec.size', by: 'openapi' },
  {
    title: 'upstream and filesystem',
    spec: { upstream, filesystem: {} },
    field: 'spec.filesystem',
    by: 'openapi',
  },
  {
    title: 'upstream and command',
    spec: { upstream, command: 'true' },
    field: 'spec.command',
    by: 'openapi',
  },
  { title: 'upstream and Temporary', spec: { upstream, mode: 'Temporary' }, field: 'spec.mode', by: 'cel' },
  {
    title: 'an unknown reclaim policy',
    spec: { size, reclaimPolicy: 'Recycle' },
    field: 'spec.reclaimPolicy',
    by: 'openapi',
  },
]

export const transitionCases: readonly TransitionCase[] = [
  { title: 'no change', before: { size }, after: { size } },
  { title: 'a size that grows', before: { size }, after: { size: '1.5Gi' } },
  { title: 'a size that grows in another unit', before: { size: '1G' }, after: { size } },
  { title: 'a size from quantity to number', before: { size }, after: { size: 1073741824 } },
  { title: 'a size from number to quantity', before: { size: 1e9 }, after: { size: '1e9' } },
  { title: 'a size that shrinks', before: { size: '2Gi' }, after: { size }, field: 'spec.size', by: 'cel' },
  {
    title: 'a size that shrinks in another unit',
    before: { size },
    after: { size: '1G' },
    field: 'spec.size',
    by: 'cel',
  },
  {
    title: 'a size that shrinks by a byte',
    before: { size },
    after: { size: 1073741823 },
    field: 'spec.size',
    by: 'cel',
  },
  {
    title: 'a size with an exponent that shrinks',
    before: { size: '2e9' },
    after: { size: '1E9' },
    field: 'spec.size',
    by: 'cel',
  },
  {
    title: 'a size that shrinks from peta to tera',
    before: { size: '1P' },
    after: { size: '999T' },
    field: 'spec.size',
    by: 'cel',
  },
  {
    title: 'another export name',
    before: { size },
    after: { size, exportName: 'b' },
    field: 'spec.exportName',
    by: 'cel',
  },
  { title: 'the default export name written out', before: { size }, after: { size, exportName: 'disk' } },
  {
    title: 'another pool',
    before: { size },
    after: { size, poolName: 'b' },
    field: 'spec.poolName',
    by: 'cel',
  },
  {
    title: 'another mode',
    before: { size },
    after: { size, mode: 'Temporary' },
    field: 'spec.mode',
    by: 'cel',
  },
  {
    title: 'another filesystem',
    before: { size, filesystem: { type: 'xfs' } },
    after: { size, filesystem: { type: 'vfat' } },
    field: 'spec.filesystem',
    by: 'cel',
  },
  {
    title: 'another label',
    before: { size, filesystem: { label: 'a' } },
    after: { size, filesystem: { label: 'b' } },
    field: 'spec.filesystem',
    by: 'cel',
  },
  {
    title: 'a filesystem taken away',
    before: { size, filesystem: { type: 'xfs' } },
    after: { size },
    field: 'spec.filesystem',
    by: 'cel',
  },
  {
    title: 'from filesystem to command',
    before: { size },
    after: { size, command: 'true' },
    field: 'spec.command',
    by: 'cel',
  },
  { title: 'another command', before: { size, command: 'true' }, after: { size, command: 'false' } },
  {
    title: 'from upstream to a disk of its own',
    before: { upstream },
    after: { size },
    field: 'spec.upstream',
    by: 'cel',
  },
  {
    title: 'from a disk of its own to upstream',
    before: { size },
    after: { upstream },
    field: 'spec.upstream',
    by: 'cel',
  },
  { title: 'another upstream', before: { upstream }, after: { upstream: { uri: 'nbd://b' } } },
  {
    title: 'access, limits, readOnly and reclaimPolicy',
    before: { size },
    after: {
      size,
      access: { deny: ['any'], connections: 2 },
      limits: { iops: 1 },
      readOnly: true,
      reclaimPolicy: 'Retain',
    },
  },
]
