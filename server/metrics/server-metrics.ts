/** What the server counts of itself, in plain fields, and how it is told to Prometheus. */
import { type CommandMeter, type ExportMeter, ExportMeters } from './export-meter.ts'
import type { Family, Sample } from './exposition.ts'
import { CREATION_SECONDS, Histogram } from './histogram.ts'

/**
 * Why a client did not get what it asked for, or lost it. access: rules, or a size above the limit. limit: too
 * many connections or disks. busy: another client holds the disk. unknown, invalid: the name. tls: TLS is needed,
 * or its handshake failed. creation: the disk could not be made. open: it could not be opened. timeout: of the
 * handshake. protocol: the client does not speak it. revoked: the rules changed while it was connected.
 */
export const REFUSAL_REASONS = [
  'access',
  'limit',
  'busy',
  'unknown',
  'invalid',
  'tls',
  'creation',
  'open',
  'timeout',
  'protocol',
  'revoked',
] as const
export type RefusalReason = (typeof REFUSAL_REASONS)[number]

/** How a handshake ended: with a disk, by the client's own wish, or otherwise. */
export const HANDSHAKE_RESULTS = ['opened', 'left', 'failed'] as const

/** How the making of a disk ended; `aborted`: nobody waited for it any more, or the server stopped. */
export const CREATION_RESULTS = ['made', 'failed', 'aborted'] as const

type Counts<Label extends string> = Record<Label, number>

function zeroes<const Label extends string>(labels: readonly Label[]): Counts<Label> {
  return Object.fromEntries(labels.map(label => [label, 0])) as Counts<Label>
}

/** The numbers of one server. They are bumped directly. */
export class ServerMetrics {
  /** Connections now, and all that were ever taken in. */
  connections = 0
  accepted = 0
  readonly handshakes = zeroes(HANDSHAKE_RESULTS)
  readonly tlsHandshakes = zeroes(['done', 'failed'])
  readonly refusals = zeroes(REFUSAL_REASONS)
  readonly creations = zeroes(CREATION_RESULTS)
  /** Of disks that were made, from the wish to the disk. */
  readonly creationSeconds = new Histogram(CREATION_SECONDS)
  readonly exports = new ExportMeters()
}

function single(value: () => number | Histogram): () => Sample[] {
  return () => [{ labels: [], value: value() }]
}

function each(counts: Counts<string>): () => Sample[] {
  return () => Object.entries(counts).map(([label, value]) => ({ labels: [label], value }))
}

/** All families of a server's own numbers. */
export function serverFamilies(metrics: ServerMetrics): Family[] {
  return [
    ...connectionFamilies(metrics),
    ...exportFamilies(metrics.exports),
    ...commandFamilies(metrics.exports),
  ]
}

function connectionFamilies(metrics: ServerMetrics): Family[] {
  const { handshakes, tlsHandshakes, refusals, creations, creationSeconds } = metrics
  return [
    {
      name: 'ondemand_disk_connections',
      type: 'gauge',
      labels: [],
      help: 'Connections of clients now, with or without a disk.',
      samples: single(() => metrics.connections),
    },
    {
      name: 'ondemand_disk_connections_total',
      type: 'counter',
      labels: [],
      help: 'Connections that were taken in.',
      samples: single(() => metrics.accepted),
    },
    {
      name: 'ondemand_disk_handshakes_total',
      type: 'counter',
      labels: ['result'],
      help: 'Handshakes that ended, by how: a disk was opened, the client left, or it failed.',
      samples: each(handshakes),
    },
    {
      name: 'ondemand_disk_tls_handshakes_total',
      type: 'counter',
      labels: ['result'],
      help: 'TLS handshakes that ended.',
      samples: each(tlsHandshakes),
    },
    {
      name: 'ondemand_disk_refusals_total',
      type: 'counter',
      labels: ['reason'],
      help: 'Clients and requests for a disk that were refused, and clients that were disconnected.',
      samples: each(refusals),
    },
    {
      name: 'ondemand_disk_creations_total',
      type: 'counter',
      labels: ['result'],
      help: 'Disks whose making ended.',
      samples: each(creations),
    },
    {
      name: 'ondemand_disk_creation_duration_seconds',
      type: 'histogram',
      labels: [],
      help: 'Time in which disks were made, with the wait for a turn.',
      samples: single(() => creationSeconds),
    },
  ]
}

function* perExport(meters: ExportMeters, value: (meter: ExportMeter) => number): Generator<Sample> {
  for (const [label, meter] of meters) yield { labels: [label], value: value(meter) }
}

function exportFamilies(exports: ExportMeters): Family[] {
  return [
    {
      name: 'ondemand_disk_export_connections',
      type: 'gauge',
      labels: ['export'],
      help: 'Connections that have the export open now.',
      samples: () => perExport(exports, meter => meter.connections),
    },
    {
      name: 'ondemand_disk_read_bytes_total',
      type: 'counter',
      labels: ['export'],
      help: 'Bytes that clients have read.',
      samples: () => perExport(exports, meter => meter.readBytes),
    },
    {
      name: 'ondemand_disk_written_bytes_total',
      type: 'counter',
      labels: ['export'],
      help: 'Bytes that clients have written.',
      samples: () => perExport(exports, meter => meter.writtenBytes),
    },
    {
      name: 'ondemand_disk_throttled_seconds_total',
      type: 'counter',
      labels: ['export'],
      help: 'Time for which connections were held back by rate limits.',
      samples: () => perExport(exports, meter => meter.throttledSeconds),
    },
  ]
}

function* perCommand(
  meters: ExportMeters,
  value: (meter: CommandMeter) => number | Histogram,
): Generator<Sample> {
  for (const [label, meter] of meters) {
    for (const [command, commandMeter] of meter.commands()) {
      yield { labels: [label, command], value: value(commandMeter) }
    }
  }
}

function commandFamilies(exports: ExportMeters): Family[] {
  const labels = ['export', 'command']
  return [
    {
      name: 'ondemand_disk_requests_total',
      type: 'counter',
      labels,
      help: 'Requests that were answered, also with an error.',
      samples: () => perCommand(exports, meter => meter.seconds.count),
    },
    {
      name: 'ondemand_disk_request_errors_total',
      type: 'counter',
      labels,
      help: 'Requests that were answered with an error.',
      samples: () => perCommand(exports, meter => meter.errors),
    },
    {
      name: 'ondemand_disk_request_duration_seconds',
      type: 'histogram',
      labels,
      help: 'Time from the arrival of a request to its reply, without what rate limits held it back for.',
      samples: () => perCommand(exports, meter => meter.seconds),
    },
  ]
}
