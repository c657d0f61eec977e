import { AccessRuleError, type AccessRules, compileAccessRules } from '../../crds/access-rules.ts'
import type { NameRules } from '../../crds/export-name.ts'
import { labelProblem } from '../../crds/filesystem-label.ts'
import { quote } from '../../crds/quote.ts'
import type { RateLimits } from '../access/rate-limit.ts'
import type { NbdUri } from '../client/uri.ts'
import type { TcpAddress } from '../linux/listen-address.ts'
import { type Parsed, parseOptions, REST, UsageError } from './options.ts'
import type { LogLevel } from './program-options.ts'
import { SERVE_OPTIONS } from './serve-option-table.ts'

/** What a new disk holds. */
export type DiskContent =
  | {
      readonly kind: 'filesystem'
      readonly type: string
      readonly label: string | undefined
      readonly mkfsOptions: readonly string[]
    }
  | {
      readonly kind: 'command'
      /** A shell fragment. */
      readonly command: string
      /** Shell identifiers and their values, without `disk` and `size`. */
      readonly variables: ReadonlyMap<string, string>
    }

/** How a disk is made when a client asks for it. */
export interface NewDisk {
  /** Bytes; 0 only with `temporary` and a command. */
  readonly size: number
  /** Most bytes that a client may ask for; undefined: it may not ask. */
  readonly maxSize: number | undefined
  readonly content: DiskContent
}

/** Where requests are forwarded. */
export interface UpstreamOptions {
  readonly uri: NbdUri
  /** All clients get the URI's export. */
  readonly fixed: boolean
  readonly shared: boolean
  readonly retryMs: number
}

/** A backend by the name of its module. */
export interface ModuleOptions {
  readonly name: string
  /** KEY=VALUE each, not yet looked at. */
  readonly settings: readonly string[]
}

/** How TLS is spoken. */
export interface TlsOptions {
  /** Nothing is possible without it. */
  readonly required: boolean
  /** Where the files have the names of a Kubernetes Secret; those of `files` are undefined then. */
  readonly dir: string | undefined
  readonly files: {
    readonly cert: string | undefined
    readonly key: string | undefined
    readonly clientCa: string | undefined
    readonly psk: string | undefined
  }
}

/** The command line of `serve`, checked: sizes in bytes, times in ms. Paths are as given, not yet looked at. */
export interface ServeOptions {
  /** Always given unless `temporary`. */
  readonly dir: string | undefined
  readonly temporary: boolean
  /** Undefined: no disk is made because a client asks for it. */
  readonly newDisk: NewDisk | undefined
  /** False: no disk is made at all, declared or not. */
  readonly create: boolean
  /** For mkfs as for a command. */
  readonly commandTimeoutMs: number
  /** Forwarding in place of disks. */
  readonly upstream: UpstreamOptions | undefined
  /** A module in place of disks. */
  readonly module: ModuleOptions | undefined
  /** Directory of manifests. */
  readonly disks: string | undefined
  /** Unix socket of the program that declares disks that clients ask for. */
  readonly ask: string | undefined
  /** Unix socket at which the server tells its state and takes orders. */
  readonly control: string | undefined
  readonly maxDisks: number | undefined
  readonly names: NameRules
  /** What was asked for by `--listen`; see `addressesToBind`. */
  readonly listen: readonly TcpAddress[]
  /** Path of a unix socket. */
  readonly unix: string | undefined
  readonly handshakeTimeoutMs: number
  readonly access: AccessRules
  readonly readOnly: boolean
  /** How long a client may wait for a disk that is held; 0: not at all. */
  readonly waitMs: number | 'unlimited'
  readonly connectionsPerDisk: number
  readonly maxConnections: number
  /** At most `maxConnections`. */
  readonly maxConnectionsPerClient: number
  /** Of one client, by all its connections together. */
  readonly limits: RateLimits
  readonly list: boolean
  readonly oldstyle: boolean
  /** Undefined: no TLS. */
  readonly tls: TlsOptions | undefined
  /** File that says who may connect, and what a client may use in all, in place of the options. */
  readonly policy: string | undefined
  /** Where HTTP is served to scrapers and probes; undefined: nowhere. */
  readonly metrics: TcpAddress | undefined
  readonly logLevel: LogLevel
}

/** A TCP address to bind. */
export interface BindAddress extends TcpAddress {
  /** A machine without this address family serves without it: EADDRNOTAVAIL and EAFNOSUPPORT are no failure. */
  readonly optional: boolean
}

const DEFAULT_PORT = 10_809

/**
 * The TCP addresses to bind: those of `--listen`, or loopback if there is no other way in (no `--unix`, no
 * activated socket).
 */
export function addressesToBind(options: ServeOptions, activatedSockets: number): readonly BindAddress[] {
  if (options.listen.length > 0) return options.listen.map(address => ({ ...address, optional: false }))
  if (options.unix !== undefined || activatedSockets > 0) return []
  return [
    { host: '127.0.0.1', port: DEFAULT_PORT, optional: false },
    { host: '::1', port: DEFAULT_PORT, optional: true },
  ]
}

/**
 * Parses the arguments that follow `serve`. Nothing outside the arguments is looked at.
 * @throws UsageError
 */
export function parseServeOptions(argv: readonly string[]): ServeOptions {
  const given = parseOptions(SERVE_OPTIONS, argv)
  const upstream = upstreamOf(given)
  checkTogether(given)
  return {
    dir: given.dir,
    temporary: given.temporary,
    newDisk: newDiskOf(given),
    create: !given['no-create'],
    commandTimeoutMs: given['command-timeout'],
    upstream,
    module: given.backend === undefined ? undefined : { name: given.backend, settings: given[REST] },
    disks: given.disks,
    ask: given.ask,
    control: given.control,
    maxDisks: given['max-disks'],
    names: given.names,
    listen: given.listen,
    unix: given.unix,
    handshakeTimeoutMs: given['handshake-timeout'],
    access: accessOf(given),
    readOnly: given['read-only'],
    waitMs: given.wait ?? 0,
    connectionsPerDisk: given['connections-per-disk'],
    maxConnections: given['max-connections'],
    maxConnectionsPerClient: Math.min(
      given['max-connections-per-client'] ?? given['max-connections'],
      given['max-connections'],
    ),
    limits: {
      readBytesPerSecond: given['read-bps'],
      writeBytesPerSecond: given['write-bps'],
      iops: given.iops,
    },
    list: !given['no-list'],
    oldstyle: given.oldstyle,
    tls: tlsOf(given),
    policy: given.policy,
    metrics: given.metrics,
    logLevel: given['log-level'],
  }
}

type Given = Parsed<typeof SERVE_OPTIONS>

function upstreamOf(given: Given): UpstreamOptions | undefined {
  const {
    upstream,
    'upstream-export': exportName,
    'upstream-shared': shared,
    'upstream-retry': retryMs,
  } = given
  if (upstream === undefined) {
    if (exportName !== undefined) throw new UsageError('--upstream-export needs --upstream.')
    if (shared) throw new UsageError('--upstream-shared needs --upstream.')
    return undefined
  }
  if (exportName === undefined && upstream.exportName !== '') {
    throw new UsageError(
      `--upstream: the URI names the export ${quote(upstream.exportName)}. Say --upstream-export for that, or leave it out.`,
    )
  }
  if (shared && exportName === undefined) {
    throw new UsageError('--upstream-shared needs --upstream-export: one connection has one export.')
  }
  const uri = exportName === undefined ? upstream : { ...upstream, exportName }
  return { uri, fixed: exportName !== undefined, shared, retryMs }
}

function tlsOf(given: Given): TlsOptions | undefined {
  const files = {
    cert: given['tls-cert'],
    key: given['tls-key'],
    clientCa: given['tls-client-ca'],
    psk: given['tls-psk'],
  }
  const dir = given['tls-dir']
  if (given.tls === 'off') {
    const useless = [...TLS_FILES, 'tls-dir' as const].find(name => given[name] !== undefined)
    if (useless !== undefined) throw new UsageError(`--${useless} needs --tls on or --tls require.`)
    return undefined
  }
  if (dir !== undefined) {
    const other = TLS_FILES.find(name => given[name] !== undefined)
    if (other !== undefined) throw new UsageError(`--tls-dir and --${other} exclude each other.`)
    return { required: given.tls === 'require', dir, files }
  }
  if ((files.cert === undefined) !== (files.key === undefined)) {
    throw new UsageError('--tls-cert and --tls-key belong together: give both.')
  }
  if (files.clientCa !== undefined && files.cert === undefined) {
    throw new UsageError('--tls-client-ca needs --tls-cert and --tls-key.')
  }
  if (files.cert === undefined && files.psk === undefined) {
    throw new UsageError(`--tls ${given.tls} needs --tls-cert and --tls-key, or --tls-psk, or --tls-dir.`)
  }
  return { required: given.tls === 'require', dir, files }
}

const TLS_FILES = ['tls-cert', 'tls-key', 'tls-client-ca', 'tls-psk'] as const

function accessOf({ allow, deny, tls }: Given): AccessRules {
  try {
    const rules = compileAccessRules({ allow, deny })
    if (tls !== 'off') return rules
    for (const { field, text, needsTls } of [...rules.allow, ...rules.deny]) {
      if (needsTls)
        throw new AccessRuleError(field, `${quote(text)} needs TLS: add --tls on or --tls require.`)
    }
    return rules
  } catch (error) {
    if (!(error instanceof AccessRuleError)) throw error
    const option = error.field.replace(/\[.*/, '')
    throw new UsageError(`--${option}: ${error.reason}`, { cause: error })
  }
}

/** What no option can say alone. */
function checkTogether(given: Given): void {
  const { size, temporary, command } = given
  const isGiven = (name: keyof Given): boolean => {
    const value: unknown = given[name]
    return Array.isArray(value) ? value.length > 0 : value !== undefined && value !== false
  }
  const exclude = (name: keyof Given, others: readonly (keyof Given)[]): void => {
    for (const other of others) {
      if (isGiven(name) && isGiven(other))
        throw new UsageError(`--${name} and --${other} exclude each other.`)
    }
  }

  for (const other of ['upstream', 'backend'] as const) {
    exclude(other, ['dir', 'size', 'disks', 'temporary', 'no-create', 'wait'])
  }
  exclude('upstream', ['backend'])
  for (const other of ['size', 'max-disks', 'command', 'oldstyle'] as const) exclude('ask', [other])
  exclude('policy', POLICY_OPTIONS)
  if (given.ask !== undefined && given.disks === undefined) {
    throw new UsageError('--ask needs --disks: the disks are declared there.')
  }
  exclude('temporary', ['no-create', 'disks', 'max-disks'])
  if (given.oldstyle && given.tls !== 'off') {
    throw new UsageError('--oldstyle and --tls exclude each other: the oldstyle handshake has no TLS.')
  }
  exclude('command', ['type', 'label', 'mkfs-option'])
  if (given.var.length > 0 && command === undefined) {
    throw new UsageError('--var needs --command: only a command sees variables.')
  }
  const hasOwnDisks = given.upstream === undefined && given.backend === undefined
  if (given.dir === undefined && !temporary && hasOwnDisks) {
    throw new UsageError('--dir is missing. Give the directory of the disks.')
  }
  if (size === undefined) {
    if (!given['no-create'] && given.disks === undefined && hasOwnDisks) {
      throw new UsageError('--size is missing. Give the size of a new disk, such as 1G, or --no-create.')
    }
    for (const name of NEW_DISK_OPTIONS) {
      if (isGiven(name)) throw new UsageError(`--${name} needs --size: without it no disk is made on demand.`)
    }
  } else if (size === 0 && !(temporary && command !== undefined)) {
    throw new UsageError('--size: 0 is possible with --temporary and --command only. Give at least 1 byte.')
  } else if (given['max-size'] !== undefined && given['max-size'] < size) {
    throw new UsageError(
      `--max-size: ${given['max-size']} bytes are less than --size, which is ${size} bytes.`,
    )
  }
  const label = given.label === undefined ? undefined : labelProblem(given.type ?? DEFAULT_TYPE, given.label)
  if (label !== undefined) throw new UsageError(`--label: ${label}`)
  refuseRepetition(
    'var',
    given.var.map(({ key }) => key),
  )
  refuseRepetition(
    'listen',
    given.listen.filter(({ port }) => port !== 0).map(({ host, port }) => `${host} port ${port}`),
  )
}

const DEFAULT_TYPE = 'ext4'

/** What a policy says in their place. `max-connections`, which has a default, is left out. */
const POLICY_OPTIONS = [
  'allow',
  'deny',
  'max-connections-per-client',
  'read-bps',
  'write-bps',
  'iops',
] as const

const NEW_DISK_OPTIONS = ['max-size', 'max-disks', 'command', 'type', 'label', 'mkfs-option'] as const

function refuseRepetition(name: keyof Given, values: readonly string[]): void {
  const repeated = values.find((value, index) => values.indexOf(value) < index)
  if (repeated !== undefined) throw new UsageError(`--${name}: ${quote(repeated)} is given twice.`)
}

function newDiskOf(given: Given): NewDisk | undefined {
  const { size, command } = given
  if (size === undefined || given['no-create']) return undefined
  const content: DiskContent =
    command === undefined
      ? {
          kind: 'filesystem',
          type: given.type ?? DEFAULT_TYPE,
          label: given.label,
          mkfsOptions: given['mkfs-option'],
        }
      : { kind: 'command', command, variables: new Map(given.var.map(({ key, value }) => [key, value])) }
  return { size, maxSize: given['max-size'], content }
}
