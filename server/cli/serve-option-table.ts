import type { NameRules } from '../../crds/export-name.ts'
import { parseSize } from '../../crds/quantity.ts'
import { parseNbdUri } from '../client/uri.ts'
import {
  parseChoice,
  parseCount,
  parseDuration,
  parseFilesystemType,
  parseListenAddress,
  parseSocketPath,
  parseText,
  parseVariable,
} from './option-values.ts'
import type { OptionTable } from './options.ts'

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

const MAX_COUNT = 1_000_000
const MAX_IOPS = 1_000_000_000

const DISKS = 'Disks'
const UPSTREAM = 'Backends'
const LISTENING = 'Listening'
const CLIENTS = 'Clients'
const TLS = 'TLS'
const PROGRAM = 'Program'

/** The options of `ondemand-disk serve`, in the order in which `--help` shows them. */
export const SERVE_OPTIONS = {
  dir: {
    group: DISKS,
    kind: 'text',
    placeholder: 'DIR',
    help: 'Directory of the disks, one file each. Needed except with --temporary, where it is the place in which the files are made.',
    shownDefault: 'the directory for temporary files',
    parse: parseText,
  },
  size: {
    group: DISKS,
    kind: 'text',
    placeholder: 'SIZE',
    help: 'Size of a disk that is made when a client first asks for it, such as 512M or 4G. Needed unless --no-create or --disks is given.',
    parse: text => parseSize(text, { allowZero: true }),
  },
  'max-size': {
    group: DISKS,
    kind: 'text',
    placeholder: 'SIZE',
    help: 'Let clients choose the size of a new disk, up to this one, by connecting to NAME:SIZE.',
    shownDefault: 'clients cannot choose',
    parse: text => parseSize(text),
  },
  type: {
    group: DISKS,
    kind: 'text',
    placeholder: 'FS',
    help: 'Filesystem of a new disk: ext4, ext3, ext2, xfs, vfat, btrfs, ntfs or another that mkfs makes.',
    shownDefault: 'ext4',
    parse: parseFilesystemType,
  },
  label: {
    group: DISKS,
    kind: 'text',
    placeholder: 'LABEL',
    help: 'Label of the filesystem.',
    parse: parseText,
  },
  'mkfs-option': {
    group: DISKS,
    kind: 'repeatable',
    placeholder: 'ARG',
    help: 'One more argument for mkfs, passed as it is. Repeatable. One that begins with -- needs --mkfs-option=ARG.',
    parse: parseText,
  },
  command: {
    group: DISKS,
    kind: 'text',
    placeholder: 'COMMAND',
    help: 'Make a new disk by this shell command instead of mkfs: it creates the path in $disk; $size holds --size in bytes.',
    parse: parseText,
  },
  var: {
    group: DISKS,
    kind: 'repeatable',
    placeholder: 'KEY=VALUE',
    help: 'A variable for --command. Repeatable.',
    parse: parseVariable,
  },
  'command-timeout': {
    group: DISKS,
    kind: 'text',
    placeholder: 'TIME',
    help: 'Kill mkfs or --command, and all that it started, after this time.',
    default: '10m',
    parse: parseDuration,
  },
  temporary: {
    group: DISKS,
    kind: 'flag',
    help: 'Give every connection a fresh disk that is gone when the connection ends.',
  },
  'no-create': {
    group: DISKS,
    kind: 'flag',
    help: 'Serve the disks that exist and make none on demand.',
  },
  disks: {
    group: DISKS,
    kind: 'text',
    placeholder: 'DIR',
    help: 'Directory of OnDemandDisk manifests: make and serve these disks, and follow changes. Without --size no others are made.',
    parse: parseText,
  },
  'max-disks': {
    group: DISKS,
    kind: 'text',
    placeholder: 'N',
    help: 'Make no disk on demand once there are N.',
    shownDefault: 'no limit',
    parse: parseCount(1, MAX_COUNT),
  },
  names: {
    group: DISKS,
    kind: 'text',
    placeholder: 'RULE',
    help: 'Names that clients may ask for. strict: no ".", "/", ":" or control character. relaxed: no "/", no control character, no "." at the beginning.',
    default: 'strict',
    parse: parseChoice(['strict', 'relaxed']) satisfies (text: string) => NameRules,
  },
  upstream: {
    group: UPSTREAM,
    kind: 'text',
    placeholder: 'URI',
    help: 'Forward to another NBD server instead of serving disks: nbd://, nbds://, nbd+unix:// or nbds+unix://.',
    parse: text => parseNbdUri(text),
  },
  'upstream-export': {
    group: UPSTREAM,
    kind: 'text',
    placeholder: 'NAME',
    help: 'Give all clients this export of the upstream.',
    shownDefault: 'the one that each client asks for',
    parse: parseText,
  },
  'upstream-shared': {
    group: UPSTREAM,
    kind: 'flag',
    help: 'Use one connection to the upstream for all clients. Needs --upstream-export.',
  },
  'upstream-retry': {
    group: UPSTREAM,
    kind: 'text',
    placeholder: 'TIME',
    help: 'How long requests wait for an upstream that is away.',
    default: '30s',
    parse: parseDuration,
  },
  backend: {
    group: UPSTREAM,
    kind: 'text',
    placeholder: 'MODULE',
    help: 'Serve what a module provides: a built-in one or your own, with its settings as KEY=VALUE behind it. See ondemand-disk backends.',
    parse: parseText,
    takesRest: true,
  },
  listen: {
    group: LISTENING,
    kind: 'repeatable',
    placeholder: 'HOST:PORT',
    help: 'TCP address to listen on; an IPv6 address stands in brackets, port 0 is any free port. Repeatable.',
    shownDefault:
      '127.0.0.1:10809 and [::1]:10809, unless --unix is given or the service manager passes sockets',
    parse: parseListenAddress,
  },
  unix: {
    group: LISTENING,
    kind: 'text',
    placeholder: 'PATH',
    help: 'Unix socket to listen on.',
    parse: parseSocketPath,
  },
  oldstyle: {
    group: LISTENING,
    kind: 'flag',
    help: 'Speak the oldstyle handshake of before 2011, in which clients cannot choose a disk: all get the one named default.',
  },
  'handshake-timeout': {
    group: LISTENING,
    kind: 'text',
    placeholder: 'TIME',
    help: 'Hang up on a client that has not chosen a disk after this time.',
    default: '10s',
    parse: parseDuration,
  },
  allow: {
    group: CLIENTS,
    kind: 'repeatable',
    placeholder: 'RULE',
    help: 'Admit only clients that an --allow matches: an address, a CIDR block, any, anyipv4, anyipv6 or unix. Repeatable.',
    shownDefault: 'any',
    parse: parseText,
  },
  deny: {
    group: CLIENTS,
    kind: 'repeatable',
    placeholder: 'RULE',
    help: 'Refuse clients that a --deny matches, whatever --allow says. Repeatable.',
    parse: parseText,
  },
  'read-only': {
    group: CLIENTS,
    kind: 'flag',
    help: 'Let nobody write.',
  },
  wait: {
    group: CLIENTS,
    kind: 'optional value',
    placeholder: 'SECONDS',
    help: 'Let a client wait for a disk that another one holds, without a time for as long as it takes.',
    shownDefault: 'refused at once',
    parse: text => (text === undefined ? 'unlimited' : parseDuration(text)),
  },
  'connections-per-disk': {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'N',
    help: 'Connections that one client address may have to one disk.',
    default: '1',
    parse: parseCount(1, MAX_COUNT),
  },
  'max-connections': {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'N',
    help: 'Connections in all.',
    default: '4096',
    parse: parseCount(1, MAX_COUNT),
  },
  'max-connections-per-client': {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'N',
    help: 'Connections of one client address.',
    shownDefault: 'as --max-connections',
    parse: parseCount(1, MAX_COUNT),
  },
  'read-bps': {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'SIZE',
    help: 'Bytes that one client address may read a second, by all its connections together.',
    shownDefault: 'no limit',
    parse: text => parseSize(text),
  },
  'write-bps': {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'SIZE',
    help: 'Bytes that one client address may write a second, by all its connections together.',
    shownDefault: 'no limit',
    parse: text => parseSize(text),
  },
  iops: {
    group: CLIENTS,
    kind: 'text',
    placeholder: 'N',
    help: 'Requests of any kind that one client address may make a second, by all its connections together.',
    shownDefault: 'no limit',
    parse: parseCount(1, MAX_IOPS),
  },
  'no-list': {
    group: CLIENTS,
    kind: 'flag',
    help: 'Do not tell clients which disks there are.',
  },
  tls: {
    group: TLS,
    kind: 'text',
    placeholder: 'MODE',
    help: 'off: none. on: for clients that ask for it. require: for all.',
    default: 'off',
    parse: parseChoice(['off', 'on', 'require']),
  },
  'tls-cert': {
    group: TLS,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Certificate chain of the server, PEM.',
    parse: parseText,
  },
  'tls-key': {
    group: TLS,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Private key of the certificate, PEM.',
    parse: parseText,
  },
  'tls-client-ca': {
    group: TLS,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Authorities, PEM: clients have to show a certificate that one of them has signed.',
    parse: parseText,
  },
  'tls-psk': {
    group: TLS,
    kind: 'text',
    placeholder: 'FILE',
    help: 'Pre-shared keys, user:hexkey a line: clients have to know one, or to show a certificate.',
    parse: parseText,
  },
  metrics: {
    group: PROGRAM,
    kind: 'text',
    placeholder: 'HOST:PORT',
    help: 'Serve HTTP there: /metrics for Prometheus, /healthz and /readyz for probes.',
    parse: parseListenAddress,
  },
  'log-level': {
    group: PROGRAM,
    kind: 'text',
    placeholder: 'LEVEL',
    help: `Least important lines to log: ${LOG_LEVELS.join(', ')}.`,
    default: 'info',
    parse: parseChoice(LOG_LEVELS),
  },
  help: {
    group: PROGRAM,
    kind: 'flag',
    short: 'h',
    help: 'Show this text.',
  },
  version: {
    group: PROGRAM,
    kind: 'flag',
    help: 'Show the version.',
  },
} as const satisfies OptionTable
