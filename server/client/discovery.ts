/** What a server has, asked without opening anything. */
import type { ListedExport } from '../protocol/client-handshake.ts'
import {
  listExports as listNegotiation,
  type Negotiation,
  probeExport as probeNegotiation,
} from '../protocol/client-negotiation.ts'
import { type ExportInfo, exportInfo } from './export-info.ts'
import { GOODBYE_TIMEOUT, negotiate } from './handshake.ts'
import { type ConnectOptions, limitsOf } from './options.ts'
import { type NbdUri, parseNbdUri } from './uri.ts'

export type { ListedExport } from '../protocol/client-handshake.ts'

async function ask<Answer>(
  uri: NbdUri,
  negotiation: Negotiation<Answer>,
  options: ConnectOptions,
): Promise<Answer> {
  const { wire, value } = await negotiate(uri, negotiation, limitsOf(options), options.signal)
  wire.end(GOODBYE_TIMEOUT)
  return value
}

/**
 * Names and descriptions of a server's exports; the export that `uri` names does not matter. At most 65,536.
 * @throws what `connect` throws; RefusedError where the server does not list
 */
export async function listExports(
  uri: string | NbdUri,
  options: ConnectOptions = {},
): Promise<ListedExport[]> {
  const parsed = typeof uri === 'string' ? parseNbdUri(uri) : uri
  return ask(parsed, listNegotiation({ tls: parsed.tls !== undefined }), options)
}

/**
 * What opening an export would give, without opening it.
 * @throws what `connect` throws; RefusedError (ENOTSUP) where the server can only open
 */
export async function probe(uri: string | NbdUri, options: ConnectOptions = {}): Promise<ExportInfo> {
  const parsed = typeof uri === 'string' ? parseNbdUri(uri) : uri
  const terms = { tls: parsed.tls !== undefined }
  return exportInfo(await ask(parsed, probeNegotiation(parsed.exportName, terms), options))
}
