import { TICKET_WITHDRAWN } from '../../crds/ticket.ts'
import { RefusedError } from '../client/errors.ts'

/** What is known of a disk that is a block device of this machine. */
export interface AttachedDisk {
  /** Path of the block device. */
  readonly device: string
  /** The kernel's NBD driver, or FUSE and a loop device. */
  readonly via: Way
  /** The URI of the export in its one form (`formatNbdUri`). */
  readonly uri: string
  readonly readOnly: boolean
  /** What whoever attached it calls it. */
  readonly tag?: string
  /** Bytes at the end of the export that the device lacks, since it has whole sectors. Undefined: it was attached before. */
  readonly cutOff?: number
  /** The process that serves the device, where there is one. */
  readonly pid?: number
}

export type Way = 'nbd' | 'fuse'

/** How a disk is to be attached. */
export interface AttachTerms {
  readonly readOnly: boolean
  /** How long the server may be away before errors are answered, in ms; undefined: for ever. */
  readonly deadAfterMs?: number | undefined
  /** How long the server may take to open the disk, which it may have to make first, in ms. Default: 10,000. */
  readonly openTimeoutMs?: number | undefined
  /** By which it can be told apart from others; without white space. */
  readonly tag?: string | undefined
  /** Makes of the command of a process that is to outlive this one the command that starts it. Default: as it is. */
  readonly launch?: ((program: string, args: readonly string[]) => readonly [string, ...string[]]) | undefined
}

/** A disk cannot be attached or detached. */
export class AttachError extends Error {
  override readonly name = 'AttachError'
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Does a server refuse for ever, since the disk has been given to somebody else? */
export const isWithdrawn = (error: unknown): boolean =>
  error instanceof RefusedError && error.message.includes(TICKET_WITHDRAWN)
