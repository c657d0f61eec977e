/** A connection whose handshake is over, for somebody else to go on with: the kernel's own NBD client. */
import { type NegotiatedExport, openExport } from '../protocol/client-negotiation.ts'
import { RefusedError } from './errors.ts'
import { type ExportInfo, exportInfo } from './export-info.ts'
import { negotiate } from './handshake.ts'
import { type ConnectOptions, limitsOf } from './options.ts'
import type { NbdUri } from './uri.ts'

export interface RawConnection {
  /** The socket, from which nothing has been read behind the handshake. Valid until `release`. */
  readonly descriptor: number
  readonly info: ExportInfo
  /** As they came: TRANSMISSION_FLAG. */
  readonly transmissionFlags: number
  /** Closes this process's descriptor, and not the connection if the kernel has it. */
  release(): void
}

/**
 * Opens an export in the clear and by simple replies.
 * @throws what `connect` throws; RefusedError for a URI with TLS
 */
export async function connectRaw(uri: NbdUri, options: ConnectOptions = {}): Promise<RawConnection> {
  if (uri.tls !== undefined) throw new RefusedError('ENOTSUP', 'A connection with TLS cannot be handed over.')
  const negotiation = openExport(uri.exportName, { tls: false, simpleReplies: true })
  const { wire, value } = await negotiate<NegotiatedExport>(
    uri,
    negotiation,
    limitsOf(options),
    options.signal,
  )
  const descriptor = wire.handOver()
  try {
    const info = exportInfo(value)
    return { descriptor, info, transmissionFlags: value.flags, release: () => wire.release() }
  } catch (error) {
    wire.release()
    throw error
  }
}
