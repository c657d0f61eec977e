/** Why a client does not get what it wants, in the words of the metrics. */
import { ExportNameError } from '../../crds/export-name.ts'
import {
  CreationAbortedError,
  CreationError,
  DirectoryError,
  NoSuchDiskError,
  NotADiskError,
  TooManyDisksError,
} from '../backends/disks/errors.ts'
import { ExportRefusal, type RefusalKind } from '../exports/export.ts'
import type { RefusalReason } from '../metrics/server-metrics.ts'
import { InvalidOption, ProtocolViolation } from '../protocol/handshake.ts'

/** The client took too long over its handshake. */
export class HandshakeTimeout extends Error {
  override readonly name = 'HandshakeTimeout'
  readonly code = 'ETIMEDOUT'
}

/** The server ended the connection: the client may not be here any more. */
export class AccessRevoked extends Error {
  override readonly name = 'AccessRevoked'
  readonly code = 'EACCES'
}

const EXPORT_REASONS = {
  unknown: 'unknown',
  invalid: 'invalid',
  policy: 'access',
  tls: 'tls',
  limit: 'limit',
  unavailable: 'creation',
} as const satisfies Record<RefusalKind, RefusalReason>

/** Why a disk was refused. */
export function exportRefusalReason(error: unknown): RefusalReason {
  if (error instanceof ExportRefusal) {
    return EXPORT_REASONS[error.kind]
  }
  if (error instanceof ExportNameError || error instanceof InvalidOption || error instanceof NotADiskError)
    return 'invalid'
  if (error instanceof NoSuchDiskError) return 'unknown'
  if (error instanceof TooManyDisksError) return 'limit'
  if (
    error instanceof CreationError ||
    error instanceof CreationAbortedError ||
    error instanceof DirectoryError
  )
    return 'creation'
  return (error as { code?: unknown } | null)?.code === 'EBUSY' ? 'busy' : 'open'
}

/** Why the server ended a handshake; undefined if it did not, but the connection broke. */
export function handshakeRefusalReason(error: unknown): RefusalReason | undefined {
  if (error instanceof HandshakeTimeout) return 'timeout'
  if ((error as { code?: unknown } | null)?.code === 'ETLS') return 'tls'
  return error instanceof ProtocolViolation ? 'protocol' : undefined
}
