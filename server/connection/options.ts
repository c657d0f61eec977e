/** What each option of the handshake is answered. */
import { ExportNameError } from '../../crds/export-name.ts'
import type { Listed, Probed } from '../backends/backend.ts'
import type { Admission, Patience } from '../exports/admission.ts'
import type { Catalog } from '../exports/catalog.ts'
import { allowsMultiConn, type Export, ExportRefusal } from '../exports/export.ts'
import { BASE_ALLOCATION, INFO, MAX_PAYLOAD, OPT, REP } from '../protocol/constants.ts'
import {
  decodeGo,
  decodeMetaContext,
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeMetaContext,
  encodeOptionError,
  encodeOptionReply,
  encodeServerReply,
  encodeTextInfo,
  type GoRequest,
  InvalidOption,
  ProtocolViolation,
} from '../protocol/handshake.ts'
import { FRAMING } from '../protocol/transmission.ts'
import { BASE_ALLOCATION_ID } from './block-status.ts'
import { type OpenedExport, openByName } from './open-export.ts'
import { transmissionFlags } from './opened-disk.ts'
import type { Client } from './peer.ts'

/** What the options have agreed on so far. */
export interface NegotiationState {
  /** One of FRAMING: the last of STRUCTURED_REPLY and EXTENDED_HEADERS. */
  framing: number
  /** What SET_META_CONTEXT chose, and for which name. */
  metaContext: { readonly name: Buffer; readonly baseAllocation: boolean } | undefined
}

/** What options are answered from. */
export interface OptionContext {
  readonly catalog: Catalog
  readonly admission: Admission
  readonly client: Client
  readonly patience: Patience
  /** May clients list the exports? */
  readonly list: boolean
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal
  /** Tells the log why an option was refused. */
  refused(exportName: Buffer, error: unknown): void
}

/** Replies in their order, and the export if the handshake is over. */
export interface Answer {
  readonly replies: readonly Buffer[]
  readonly opened?: OpenedExport
  /** How many names a list has told, each of which the client may ask about. */
  readonly listed?: number
}

type Handler = (
  option: number,
  payload: Buffer,
  state: NegotiationState,
  context: OptionContext,
) => Answer | Promise<Answer>

const HANDLERS: ReadonlyMap<number, Handler> = new Map<number, Handler>([
  [OPT.EXPORT_NAME, exportName],
  [OPT.LIST, list],
  [OPT.INFO, info],
  [OPT.GO, go],
  [OPT.STRUCTURED_REPLY, structuredReply],
  [OPT.EXTENDED_HEADERS, extendedHeaders],
  [OPT.LIST_META_CONTEXT, metaContext],
  [OPT.SET_META_CONTEXT, metaContext],
])

/**
 * Answers one option (all but ABORT and STARTTLS). The handshake goes on after every answer that opens nothing.
 * @throws only what ends the connection
 */
export async function answerOption(
  option: number,
  payload: Buffer,
  state: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  const handler = HANDLERS.get(option)
  if (handler === undefined) {
    return { replies: [encodeOptionError(option, REP.ERR_UNSUP, `Option ${option} is not supported.`)] }
  }
  try {
    return await handler(option, payload, state, context)
  } catch (error) {
    if (error instanceof InvalidOption) return refuse(option, REP.ERR_INVALID, error.message)
    throw error
  }
}

function refuse(option: number, type: number, message: string): Answer {
  return { replies: [encodeOptionError(option, type, message)] }
}

const ack = (option: number) => encodeOptionReply(option, REP.ACK)

function requireEmpty(payload: Buffer, name: string): void {
  if (payload.length > 0) throw new InvalidOption(`${name} takes no data.`)
}

const EXPORT_REPLIES = {
  unknown: REP.ERR_UNKNOWN,
  invalid: REP.ERR_INVALID,
  policy: REP.ERR_POLICY,
  limit: REP.ERR_POLICY,
  unavailable: REP.ERR_UNKNOWN,
} as const

/** The same for the `code` of what a backend refuses a disk with: an upstream's refusal passes through by it. */
const CODE_REPLIES: ReadonlyMap<unknown, number> = new Map([
  ['EBUSY', REP.ERR_POLICY],
  ['EACCES', REP.ERR_POLICY],
  ['EPERM', REP.ERR_POLICY],
  ['ESHUTDOWN', REP.ERR_SHUTDOWN],
])

/** Wire reply for the reason why an export could not be had. TLS is not asked of those who have it already. */
function refusalReply(error: unknown, { secured }: Client): number {
  if (error instanceof ExportNameError) {
    return error.code === 'NotUtf8' || error.code === 'ControlCharacter' ? REP.ERR_INVALID : REP.ERR_UNKNOWN
  }
  if (error instanceof ExportRefusal) {
    if (error.kind === 'tls') return secured ? REP.ERR_POLICY : REP.ERR_TLS_REQD
    return EXPORT_REPLIES[error.kind]
  }
  return CODE_REPLIES.get((error as { code?: unknown } | null | undefined)?.code) ?? REP.ERR_UNKNOWN
}

function refuseExport(option: number, name: Buffer, error: unknown, context: OptionContext): Answer {
  if (context.signal.aborted) throw error
  context.refused(name, error)
  const message = error instanceof Error ? error.message : 'The disk cannot be had.'
  return refuse(option, refusalReply(error, context.client), message)
}

/** Contexts hold for the name that they were chosen for (proto.md, "NBD_OPT_SET_META_CONTEXT"). */
function dropContextOfOther(name: Buffer, state: NegotiationState): void {
  if (state.metaContext?.name.equals(name) === false) state.metaContext = undefined
}

async function exportName(
  option: number,
  name: Buffer,
  state: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  // proto.md, "NBD_OPT_EXTENDED_HEADERS": its reply has no room for what the client expects from then on.
  if (state.framing === FRAMING.EXTENDED)
    throw new ProtocolViolation('EXPORT_NAME cannot follow EXTENDED_HEADERS.')
  try {
    const opened = await openByName(name, context)
    dropContextOfOther(name, state)
    return { replies: [], opened }
  } catch (error) {
    refuseExport(option, name, error, context)
    return { replies: [] }
  }
}

function listedReply(option: number, listed: Listed): Buffer {
  if (typeof listed === 'string') return encodeServerReply(option, listed)
  return encodeServerReply(option, listed.name, listed.description)
}

async function list(
  option: number,
  payload: Buffer,
  _: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  requireEmpty(payload, 'LIST')
  if (!context.list) return refuse(option, REP.ERR_POLICY, 'This server does not list its exports.')
  try {
    const listed = await context.catalog.list(context.client.peer)
    return { replies: [...listed.map(one => listedReply(option, one)), ack(option)], listed: listed.length }
  } catch (error) {
    context.refused(payload, error)
    return refuse(option, REP.ERR_PLATFORM, 'The exports cannot be listed now.')
  }
}

function structuredReply(option: number, payload: Buffer, state: NegotiationState): Answer {
  requireEmpty(payload, 'STRUCTURED_REPLY')
  if (state.framing === FRAMING.EXTENDED) {
    return refuse(
      option,
      REP.ERR_EXT_HEADER_REQD,
      'Extended headers, which include this, have been agreed on.',
    )
  }
  state.framing = FRAMING.STRUCTURED
  return { replies: [ack(option)] }
}

function extendedHeaders(option: number, payload: Buffer, state: NegotiationState): Answer {
  requireEmpty(payload, 'EXTENDED_HEADERS')
  if (state.framing === FRAMING.EXTENDED)
    throw new InvalidOption('Extended headers have been agreed on already.')
  state.framing = FRAMING.EXTENDED
  return { replies: [ack(option)] }
}

/** Information replies for an export; INFO_EXPORT comes whether asked for or not. */
function informationOf(
  option: number,
  served: Export,
  { size, capabilities, description }: Probed,
  { infoTypes }: GoRequest,
  { framing }: NegotiationState,
): Buffer[] {
  const flags = transmissionFlags(capabilities, allowsMultiConn(served, capabilities), framing)
  const replies = [encodeExportInfo(option, size, flags)]
  if (infoTypes.includes(INFO.NAME)) replies.push(encodeTextInfo(option, INFO.NAME, served.name))
  if (description !== undefined && infoTypes.includes(INFO.DESCRIPTION)) {
    replies.push(encodeTextInfo(option, INFO.DESCRIPTION, description))
  }
  if (infoTypes.includes(INFO.BLOCK_SIZE)) {
    const { minimum, preferred, maximum } = capabilities.blockSizes
    // READ and WRITE are served up to the protocol's default; what a backend cannot take at once is split.
    replies.push(
      encodeBlockSizeInfo(option, minimum, preferred, Math.max(preferred, Math.min(maximum, MAX_PAYLOAD))),
    )
  }
  return replies
}

async function go(
  option: number,
  payload: Buffer,
  state: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  const request = decodeGo(payload)
  try {
    const opened = await openByName(request.name, context)
    dropContextOfOther(request.name, state)
    const replies = [...informationOf(option, opened.served, opened, request, state), ack(option)]
    return { replies, opened }
  } catch (error) {
    return refuseExport(option, request.name, error, context)
  }
}

async function info(
  option: number,
  payload: Buffer,
  state: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  const request = decodeGo(payload)
  try {
    await context.catalog.prepared(request.name)
    const served = context.catalog.resolve(request.name, context.client.peer)
    const probed = await probe(request.name, served, context)
    return { replies: [...informationOf(option, served, probed, request, state), ack(option)] }
  } catch (error) {
    return refuseExport(option, request.name, error, context)
  }
}

/** Looks without making the disk where that is possible; a command alone knows what size it will make. */
async function probe(name: Buffer, served: Export, context: OptionContext): Promise<Probed> {
  const probed = await served.backend.probe(served.name, served.requestedSize, served.readOnly)
  if (probed !== undefined) return probed
  const opened = await openByName(name, context)
  await opened.close()
  return opened
}

/** Is this query for base:allocation? The wildcard `base:` is for lists only (proto.md, "Metadata querying"). */
function asksForBaseAllocation(option: number, query: string): boolean {
  return query === BASE_ALLOCATION || (option === OPT.LIST_META_CONTEXT && query === 'base:')
}

async function metaContext(
  option: number,
  payload: Buffer,
  state: NegotiationState,
  context: OptionContext,
): Promise<Answer> {
  const sets = option === OPT.SET_META_CONTEXT
  // Each call replaces the set of the one before, even when it fails.
  if (sets) state.metaContext = undefined
  if (state.framing === FRAMING.SIMPLE) throw new InvalidOption('Metadata contexts need structured replies.')
  const { name, queries } = decodeMetaContext(payload)
  try {
    await context.catalog.prepared(name)
    context.catalog.resolve(name, context.client.peer)
  } catch (error) {
    return refuseExport(option, name, error, context)
  }
  const baseAllocation =
    queries.some(query => asksForBaseAllocation(option, query)) || (!sets && queries.length === 0)
  if (sets) state.metaContext = { name, baseAllocation }
  const replies = [ack(option)]
  if (baseAllocation)
    replies.unshift(encodeMetaContext(option, sets ? BASE_ALLOCATION_ID : 0, BASE_ALLOCATION))
  return { replies }
}
