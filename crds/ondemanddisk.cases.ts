/**
 * Good and bad OnDemandDisks: one table for everything that judges them, the validation here as well as an
 * API server that has loaded the CRD.
 */
import { badSources, goodSources, sourceTransitions } from './source.cases.ts'

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
  ...goodSources,
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

/** Title, spec, the field of the spec that the refusal names, and the object's name if it matters. */
type BadSpec = readonly [title: string, spec: object, field: string, name?: string]

/** What OpenAPI alone refuses. */
const refusedByOpenApi: readonly BadSpec[] = [
  ['no size', {}, 'size'],
  ['a size that is no quantity', { size: '1X' }, 'size'],
  ['a size with a blank', { size: '1 Gi' }, 'size'],
  ['an empty size', { size: '' }, 'size'],
  ['a negative size', { size: -1 }, 'size'],
  ['a negative quantity', { size: '-1Gi' }, 'size'],
  ['a broken size', { size: 1.5 }, 'size'],
  ['a size of many digits', { size: '1'.repeat(33) }, 'size'],
  ['a size of 8 PiB', { size: 2 ** 53 }, 'size'],
  ['a size that is a list', { size: ['1Gi'] }, 'size'],
  ['a size of true', { size: true }, 'size'],
  ['a pool name in capitals', { size, poolName: 'Fast' }, 'poolName'],
  ['a pool name of 64', { size, poolName: 'a'.repeat(64) }, 'poolName'],
  ['an empty export name', { size, exportName: '' }, 'exportName'],
  ['a hidden export name', { size, exportName: '.a' }, 'exportName'],
  ['an export name with a slash', { size, exportName: 'a/b' }, 'exportName'],
  ['an export name with NUL', { size, exportName: 'a\0b' }, 'exportName'],
  ['an export name with C1', { size, exportName: 'a\u0085b' }, 'exportName'],
  ['a long export name', { size, exportName: 'a'.repeat(256) }, 'exportName'],
  ['a filesystem type with a path', { size, filesystem: { type: '../sh' } }, 'filesystem.type'],
  ['a filesystem type in capitals', { size, filesystem: { type: 'EXT4' } }, 'filesystem.type'],
  ['a label with a line break', { size, filesystem: { label: 'a\nb' } }, 'filesystem.label'],
  [
    'an mkfs option with a path',
    { size, filesystem: { mkfsOptions: ['-d', '/etc'] } },
    'filesystem.mkfsOptions[1]',
  ],
  [
    'an mkfs option that climbs',
    { size, filesystem: { mkfsOptions: ['-d..'] } },
    'filesystem.mkfsOptions[0]',
  ],
  ['an empty mkfs option', { size, filesystem: { mkfsOptions: [''] } }, 'filesystem.mkfsOptions[0]'],
  ['33 mkfs options', { size, filesystem: { mkfsOptions: Array(33).fill('-q') } }, 'filesystem.mkfsOptions'],
  ['mkfs options as one string', { size, filesystem: { mkfsOptions: '-q' } }, 'filesystem.mkfsOptions'],
  ['a blank command', { size, command: ' \n' }, 'command'],
  ['a command with NUL', { size, command: 'a\0' }, 'command'],
  ['a command of 8193 characters', { size, command: 'x'.repeat(8193) }, 'command'],
  ['command and filesystem', { size, command: 'true', filesystem: {} }, 'filesystem'],
  ['variables without command', { size, variables: { a: '1' } }, 'variables'],
  ['a variable that is a number', { size, command: 'true', variables: { a: 1 } }, 'variables.a'],
  ['a variable with NUL', { size, command: 'true', variables: { a: '\0' } }, 'variables.a'],
  [
    '65 variables',
    {
      size,
      command: 'true',
      variables: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`v${n}`, ''])),
    },
    'variables',
  ],
  ['an unknown mode', { size, mode: 'temporary' }, 'mode'],
  ['readOnly as a string', { size, readOnly: 'yes' }, 'readOnly'],
  ['a zone', { size, access: { allow: ['fe80::1%eth0'] } }, 'access.allow[0]'],
  ['a host name as a rule', { size, access: { allow: ['localhost'] } }, 'access.allow[0]'],
  ['a rule with blanks', { size, access: { allow: [' any'] } }, 'access.allow[0]'],
  ['an empty rule', { size, access: { allow: [''] } }, 'access.allow[0]'],
  ['a dn rule without a pattern', { size, access: { allow: ['dn:'] } }, 'access.allow[0]'],
  ['rules as one string', { size, access: { allow: 'any' } }, 'access.allow'],
  ['129 rules', { size, access: { allow: Array(129).fill('any') } }, 'access.allow'],
  ['no connections at all', { size, access: { connections: 0 } }, 'access.connections'],
  ['129 connections', { size, access: { connections: 129 } }, 'access.connections'],
  ['half a connection', { size, access: { connections: 1.5 } }, 'access.connections'],
  ['a rate of 0', { size, limits: { readBytesPerSecond: 0 } }, 'limits.readBytesPerSecond'],
  [
    'a rate that is no quantity',
    { size, limits: { writeBytesPerSecond: 'fast' } },
    'limits.writeBytesPerSecond',
  ],
  ['no requests at all', { size, limits: { iops: 0 } }, 'limits.iops'],
  ['an upstream without URI', { upstream: {} }, 'upstream.uri'],
  ['an upstream by http', { upstream: { uri: 'http://example.org/' } }, 'upstream.uri'],
  ['an upstream without host', { upstream: { uri: 'nbd:///disk' } }, 'upstream.uri'],
  ['upstream and size', { upstream, size }, 'size'],
  ['upstream and filesystem', { upstream, filesystem: {} }, 'filesystem'],
  ['upstream and command', { upstream, command: 'true' }, 'command'],
  ['an unknown reclaim policy', { size, reclaimPolicy: 'Recycle' }, 'reclaimPolicy'],
]

/** What is left to CEL. */
const refusedByCel: readonly BadSpec[] = [
  ['a variable named disk', { size, command: 'true', variables: { disk: 'x' } }, 'variables["disk"]'],
  [
    'a variable that is no identifier',
    { size, command: 'true', variables: { 'a-b': 'x' } },
    'variables["a-b"]',
  ],
  ['a variable without a name', { size, command: 'true', variables: { '': 'x' } }, 'variables[""]'],
  ['upstream and Temporary', { upstream, mode: 'Temporary' }, 'mode'],
]

/** What no schema can say, or what an API server drops in silence. */
const refusedByProgram: readonly BadSpec[] = [
  ['a size of 1 EiB', { size: '1Ei' }, 'size'],
  ['a size of 0 without command', { size: 0 }, 'size'],
  ['an unknown field', { size, sice: 1 }, 'sice'],
  ['an unknown field deep down', { size, access: { alow: [] } }, 'access.alow'],
  ['an unknown field with an odd name', { size, 'a b': 1 }, '["a b"]'],
  ['a wide export name', { size, exportName: 'ü'.repeat(128) }, 'exportName'],
  ['an export name with a dot', { size, exportName: 'a.b' }, 'exportName'],
  ['an object name with a dot', { size }, 'exportName', 'a.b'],
  ['an ext4 label of 17 bytes', { size, filesystem: { label: `${'ü'.repeat(8)}x` } }, 'filesystem.label'],
  [
    'an xfs label of 13 bytes',
    { size, filesystem: { type: 'xfs', label: 'x'.repeat(13) } },
    'filesystem.label',
  ],
  ['a CIDR of three bytes', { size, access: { allow: ['any', '10.0.0/8'] } }, 'access.allow[1]'],
  ['a prefix of 33', { size, access: { deny: ['10.0.0.1/33'] } }, 'access.deny[0]'],
  [
    'a rate of 0 as a quantity',
    { size, limits: { writeBytesPerSecond: '0Mi' } },
    'limits.writeBytesPerSecond',
  ],
  ['an upstream with a bad port', { upstream: { uri: 'nbd://example.org:99999' } }, 'upstream.uri'],
  ['an upstream without socket', { upstream: { uri: 'nbd+unix:///disk' } }, 'upstream.uri'],
  ['an upstream with a relative socket', { upstream: { uri: 'nbd+unix:///?socket=a' } }, 'upstream.uri'],
]

function refusedBy(by: RefusedBy, specs: readonly BadSpec[]): BadCase[] {
  return specs.map(([title, spec, field, name]) => ({
    title,
    spec,
    field: field.startsWith('[') ? `spec${field}` : `spec.${field}`,
    by,
    ...(name && { name }),
  }))
}

export const badCases: readonly BadCase[] = [
  ...badSources,
  ...refusedBy('openapi', refusedByOpenApi),
  ...refusedBy('cel', refusedByCel),
  ...refusedBy('program', refusedByProgram),
]

export const transitionCases: readonly TransitionCase[] = [
  ...sourceTransitions,
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
