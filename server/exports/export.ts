/** What a client gets when it asks for a name. */
import type { AccessRules, Peer } from '../../crds/access-rules.ts'
import type { RateLimits } from '../access/rate-limit.ts'
import type { Capabilities, LayeredBackend } from '../backends/backend.ts'

/** One export and the terms on which it is served. */
export interface Export {
  /** The name as LIST shows it, but `default` for the empty one; also the disk's name in the admission table. */
  readonly name: string
  readonly backend: LayeredBackend
  readonly readOnly: boolean
  /** Every connection gets a disk of its own, which nobody else can hold. */
  readonly temporary: boolean
  /** The backend itself decides who may share a disk and how: nobody is kept out for another's sake. */
  readonly unlocked: boolean
  /** Connections that one client may have at once. */
  readonly connections: number
  /** Narrows the server's own rules. */
  readonly access: AccessRules | undefined
  /** Those of which a client needs one, where there are any. */
  readonly tickets?: readonly string[] | undefined
  /** The one that this client has shown. */
  readonly ticket?: string
  /** Bytes that the client asked for by `name:4G`. */
  readonly requestedSize: number | undefined
  /** What each client may use of this disk. */
  readonly limits: RateLimits
  /**
   * The disk is to be declared before it can be opened: has another program do that and waits for it, after which
   * the name is to be resolved anew. Throws ExportRefusal, or the signal's reason.
   */
  readonly declare?: (peer: Peer, signal: AbortSignal) => Promise<void>
}

/** May a client spread its requests over several connections? INFO and GO must say the same of one export. */
export function allowsMultiConn(served: Export, { canMultiConn }: Capabilities): boolean {
  if (served.unlocked) return canMultiConn
  return !served.temporary && (served.readOnly || served.connections > 1)
}

/**
 * Why a name is not served: each kind has its own reply on the wire. limit: there are as many disks, or as much of
 * them, as there may be. unavailable: the disk could not be made now.
 */
export type RefusalKind = 'unknown' | 'invalid' | 'policy' | 'tls' | 'limit' | 'unavailable'

const CODES = {
  unknown: 'ENOENT',
  invalid: 'EINVAL',
  policy: 'EACCES',
  tls: 'EACCES',
  limit: 'EDQUOT',
  unavailable: 'EAGAIN',
} as const satisfies Record<RefusalKind, string>

/** A name that is not served to this client. The message is meant for the client. */
export class ExportRefusal extends Error {
  override readonly name = 'ExportRefusal'
  readonly code: (typeof CODES)[RefusalKind]
  readonly kind: RefusalKind

  constructor(kind: RefusalKind, message: string, options?: ErrorOptions) {
    super(message, options)
    this.kind = kind
    this.code = CODES[kind]
  }
}
