/**
 * The client's part of the handshake, without I/O: generators that say what they need next (bytes to read,
 * bytes to send, TLS) and return what was negotiated. Whoever drives them owns sockets and deadlines.
 */
import {
  type AnnouncedBlockSizes,
  decodeErrorText,
  decodeExportNameReply,
  decodeGreeting,
  decodeInfo,
  decodeMetaContextReply,
  decodeOldstyle,
  decodeOptionReplyHeader,
  decodeServerFlags,
  decodeServerReply,
  EXPORT_NAME_REPLY_LENGTH,
  EXPORT_NAME_ZEROES,
  encodeClientFlags,
  encodeGo,
  encodeMetaQueries,
  encodeOption,
  GREETING_LENGTH,
  type ListedExport,
  NEWSTYLE_FLAGS_LENGTH,
  OLDSTYLE_LENGTH,
  OPTION_REPLY_HEADER_LENGTH,
  ServerViolation,
  type SizeAndFlags,
} from './client-handshake.ts'
import { BASE_ALLOCATION, INFO, OPT, REP } from './constants.ts'

/**
 * What a negotiation needs before it can go on. `read` is answered by exactly that many bytes. What `opens` the export may
 * be answered late: the disk may have to be made first.
 */
export type Step =
  | { readonly kind: 'read'; readonly length: number }
  | { readonly kind: 'send'; readonly bytes: Buffer; readonly opens?: true }
  | { readonly kind: 'tls' }

const NOTHING = Buffer.alloc(0)

/** Yields steps; is resumed with the bytes of a `read`, with no bytes otherwise. */
export type Negotiation<Result> = Generator<Step, Result, Buffer>

/** How replies look in the transmission phase. */
export type ReplyStyle = 'simple' | 'structured' | 'extended'

/** What is known of an export when the handshake is over. */
export interface NegotiatedExport extends SizeAndFlags {
  /** The name by which the server knows the export, where it tells. */
  readonly canonicalName: string | undefined
  readonly description: string | undefined
  readonly blockSizes: AnnouncedBlockSizes | undefined
  readonly replies: ReplyStyle
  /** Id of the context base:allocation, if the server has it. */
  readonly allocationContext: number | undefined
}

/** The server refused an option. `type` is one of REP.ERR_*; `text` is the server's own, and as it came. */
export class OptionRefused extends Error {
  override readonly name = 'OptionRefused'
  readonly option: number
  readonly type: number
  readonly text: string

  constructor(option: number, type: number, text: string) {
    super(`The server refused option ${option} with error 0x${type.toString(16)}.`)
    this.option = option
    this.type = type
    this.text = text
  }
}

/** The server's style of handshake lacks something that is needed. */
export class HandshakeUnsupported extends Error {
  override readonly name = 'HandshakeUnsupported'
  readonly missing: 'tls' | 'list' | 'info' | 'names'

  constructor(missing: 'tls' | 'list' | 'info' | 'names') {
    super(`The server's style of handshake has no ${missing}.`)
    this.missing = missing
  }
}

/** What bounds a server that never ends an answer: replies to one option. */
const MAX_REPLIES = 64
/** The same for a list of exports. */
export const MAX_LISTED = 65_536

function* read(length: number): Negotiation<Buffer> {
  return length === 0 ? NOTHING : yield { kind: 'read', length }
}

const OPENING: ReadonlySet<number> = new Set([OPT.GO, OPT.EXPORT_NAME])

function* send(bytes: Buffer, option?: number): Negotiation<void> {
  const opens = option !== undefined && OPENING.has(option)
  yield { kind: 'send', bytes, ...(opens && { opens }) }
}

/**
 * Sends an option and reads its replies up to the final one. Each reply before is given to `each`, which
 * returns false for types that do not belong to this option.
 * @throws OptionRefused where the final reply is an error
 */
function* ask(
  option: number,
  bytes: Buffer,
  each: (type: number, payload: Buffer) => boolean = () => false,
  limit: number = MAX_REPLIES,
): Negotiation<void> {
  yield* send(bytes, option)
  for (let count = 0; ; count++) {
    const { type, length } = decodeOptionReplyHeader(yield* read(OPTION_REPLY_HEADER_LENGTH), option)
    const payload = yield* read(length)
    if (type === REP.ACK) {
      if (length !== 0) throw new ServerViolation('The server sent an ACK with a payload.')
      return
    }
    if (type >= 2 ** 31) throw new OptionRefused(option, type, decodeErrorText(payload))
    if (count >= limit) throw new ServerViolation(`The server sent more than ${limit} replies to one option.`)
    if (!each(type, payload))
      throw new ServerViolation(`The server answered option ${option} by reply ${type}.`)
  }
}

/** Errors that say that the option cannot be had here; the handshake goes on without what it would have given. */
const isHarmless = (refused: OptionRefused): boolean =>
  refused.type !== REP.ERR_SHUTDOWN && refused.type !== REP.ERR_TLS_REQD

/** Asks for something that can be done without; false where the server does not have it. */
function* tryOption(
  option: number,
  bytes: Buffer,
  each?: (type: number, payload: Buffer) => boolean,
): Negotiation<boolean> {
  try {
    yield* ask(option, bytes, each)
    return true
  } catch (error) {
    if (error instanceof OptionRefused && isHarmless(error)) return false
    throw error
  }
}

/** What every negotiation begins with. `oldstyle` is all there is where a server speaks that. */
type Greeted =
  | { readonly style: 'oldstyle'; readonly exported: SizeAndFlags }
  | { readonly style: 'newstyle'; readonly noZeroes: boolean }
  | { readonly style: 'fixed'; readonly noZeroes: boolean }

function* greet(useTls: boolean): Negotiation<Greeted> {
  if (decodeGreeting(yield* read(GREETING_LENGTH)) === 'oldstyle') {
    // No TLS is no TLS: going on in the clear would be the downgrade of CVE-2019-14842.
    if (useTls) throw new HandshakeUnsupported('tls')
    return { style: 'oldstyle', exported: decodeOldstyle(yield* read(OLDSTYLE_LENGTH)) }
  }
  const offered = decodeServerFlags(yield* read(NEWSTYLE_FLAGS_LENGTH))
  if (useTls && !offered.fixedNewstyle) throw new HandshakeUnsupported('tls')
  yield* send(encodeClientFlags(offered))
  if (useTls) {
    // First of all options, so that nothing said in the clear has a meaning later.
    yield* ask(OPT.STARTTLS, encodeOption(OPT.STARTTLS))
    yield { kind: 'tls' }
  }
  return { style: offered.fixedNewstyle ? 'fixed' : 'newstyle', noZeroes: offered.noZeroes }
}

const plain = (exported: SizeAndFlags): NegotiatedExport => ({
  ...exported,
  canonicalName: undefined,
  description: undefined,
  blockSizes: undefined,
  replies: 'simple',
  allocationContext: undefined,
})

function* exportName(name: string, noZeroes: boolean): Negotiation<NegotiatedExport> {
  yield* send(encodeOption(OPT.EXPORT_NAME, Buffer.from(name, 'utf8')), OPT.EXPORT_NAME)
  const exported = decodeExportNameReply(yield* read(EXPORT_NAME_REPLY_LENGTH))
  if (!noZeroes) yield* read(EXPORT_NAME_ZEROES)
  return plain(exported)
}

const WANTED_INFO = [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE]

/** GO or INFO: the same question, with and without opening. */
function* information(option: number, name: string): Negotiation<NegotiatedExport> {
  let exported: SizeAndFlags | undefined
  let canonicalName: string | undefined
  let description: string | undefined
  let blockSizes: AnnouncedBlockSizes | undefined
  yield* ask(option, encodeGo(option, name, WANTED_INFO), (type, payload) => {
    if (type !== REP.INFO) return false
    const info = decodeInfo(payload)
    if (info.kind === 'export') {
      if (exported !== undefined) throw new ServerViolation('The server told the size of the export twice.')
      exported = info.value
    } else if (info.kind === 'name') canonicalName = info.value
    else if (info.kind === 'description') description = info.value
    else if (info.kind === 'blockSizes') blockSizes = info.value
    return true
  })
  if (exported === undefined) throw new ServerViolation('The server did not tell the size of the export.')
  return { ...plain(exported), canonicalName, description, blockSizes }
}

function* allocationContext(name: string): Negotiation<number | undefined> {
  let id: number | undefined
  const bytes = encodeMetaQueries(OPT.SET_META_CONTEXT, name, [BASE_ALLOCATION])
  const done = yield* tryOption(OPT.SET_META_CONTEXT, bytes, (type, payload) => {
    if (type !== REP.META_CONTEXT) return false
    if (id !== undefined) throw new ServerViolation('The server selected a metadata context twice.')
    id = decodeMetaContextReply(payload)
    return true
  })
  return done ? id : undefined
}

/** What a negotiation is asked for. */
export interface NegotiationTerms {
  /** Require TLS: without it there is no connection. */
  readonly tls: boolean
  /** Ask for nothing but simple replies, for whoever understands no others. */
  readonly simpleReplies?: boolean
}

/** Agrees on the best kind of replies that the server has, then opens the export (GO) or asks for it (INFO). */
function* haggle(
  option: number,
  name: string,
  noZeroes: boolean,
  { simpleReplies = false }: NegotiationTerms,
): Negotiation<NegotiatedExport> {
  let replies: ReplyStyle = 'simple'
  if (simpleReplies) replies = 'simple'
  else if (yield* tryOption(OPT.EXTENDED_HEADERS, encodeOption(OPT.EXTENDED_HEADERS))) replies = 'extended'
  else if (yield* tryOption(OPT.STRUCTURED_REPLY, encodeOption(OPT.STRUCTURED_REPLY))) replies = 'structured'
  const context = replies === 'simple' ? undefined : yield* allocationContext(name)
  try {
    return { ...(yield* information(option, name)), replies, allocationContext: context }
  } catch (error) {
    if (!(error instanceof OptionRefused) || error.type !== REP.ERR_UNSUP) throw error
    if (option === OPT.INFO) throw new HandshakeUnsupported('info')
    // A server that has EXTENDED_HEADERS has GO too, and after the one forbids EXPORT_NAME.
    if (replies === 'extended') throw error
    return { ...(yield* exportName(name, noZeroes)), replies, allocationContext: context }
  }
}

function refuseName(name: string): void {
  if (name !== '') throw new HandshakeUnsupported('names')
}

/**
 * Opens an export.
 * @throws ServerViolation, OptionRefused, HandshakeUnsupported
 */
export function* openExport(name: string, terms: NegotiationTerms): Negotiation<NegotiatedExport> {
  const greeted = yield* greet(terms.tls)
  if (greeted.style === 'fixed') return yield* haggle(OPT.GO, name, greeted.noZeroes, terms)
  if (greeted.style === 'newstyle') return yield* exportName(name, greeted.noZeroes)
  refuseName(name)
  return plain(greeted.exported)
}

/**
 * Asks what opening an export would give, without opening it. Oldstyle opens the only export there is.
 * @throws ServerViolation, OptionRefused, HandshakeUnsupported
 */
export function* probeExport(name: string, terms: NegotiationTerms): Negotiation<NegotiatedExport> {
  const greeted = yield* greet(terms.tls)
  if (greeted.style === 'newstyle') throw new HandshakeUnsupported('info')
  if (greeted.style === 'fixed') {
    const found = yield* haggle(OPT.INFO, name, greeted.noZeroes, terms)
    yield* send(encodeOption(OPT.ABORT))
    return found
  }
  refuseName(name)
  return plain(greeted.exported)
}

/**
 * Asks for the names of all exports. Oldstyle has one, to which no name leads.
 * @throws ServerViolation, OptionRefused, HandshakeUnsupported
 */
export function* listExports(terms: NegotiationTerms): Negotiation<ListedExport[]> {
  const greeted = yield* greet(terms.tls)
  if (greeted.style === 'newstyle') throw new HandshakeUnsupported('list')
  if (greeted.style === 'oldstyle') return [{ name: '', description: '' }]
  const exports: ListedExport[] = []
  const collect = (type: number, payload: Buffer) => {
    if (type !== REP.SERVER) return false
    exports.push(decodeServerReply(payload))
    return true
  }
  yield* ask(OPT.LIST, encodeOption(OPT.LIST), collect, MAX_LISTED)
  yield* send(encodeOption(OPT.ABORT))
  return exports
}
