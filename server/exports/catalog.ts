/** Which names there are for a client, and on which terms. */
import { type AccessRules, admissionRefusal, type Peer } from '../../crds/access-rules.ts'
import {
  DEFAULT_NAME,
  ExportNameError,
  type NameRules,
  parseRequestedName,
  type RequestedName,
} from '../../crds/export-name.ts'
import { formatSize } from '../../crds/quantity.ts'
import { admitsTicket, splitTicket, TICKET_WITHDRAWN } from '../../crds/ticket.ts'
import { NO_LIMITS, type RateLimits } from '../access/rate-limit.ts'
import { type LayeredBackend, type Listed, nameOf } from '../backends/backend.ts'
import { type Export, ExportRefusal } from './export.ts'

/** Disks that are served by the command line's options, not by a manifest. */
export interface UndeclaredDisks {
  readonly backend: LayeredBackend
  readonly readOnly: boolean
  readonly temporary: boolean
  /** See Export. */
  readonly unlocked?: boolean
  /** Names are the backend's business: any that the protocol allows goes through as it came. */
  readonly anyName?: boolean
  readonly connections: number
  /** Most bytes that a client may ask for by `name:4G`; undefined: it may not ask. */
  readonly maxSize: number | undefined
  /** Has a disk declared that a client asks for; the backend then only tells what it would be. See Export. */
  readonly declare?: (wish: Wish, signal: AbortSignal) => Promise<void>
}

/** A disk that a client asks for. */
export interface Wish {
  readonly name: string
  /** Bytes, where the client asked for a size. */
  readonly size: number | undefined
  readonly peer: Peer
}

/** Disks that are declared, by name. */
export interface DeclaredDisks {
  /** The export of this name, undefined if it is not declared. */
  find(name: string): Export | undefined
  /** Why this name, though declared, cannot be served now. */
  problem(name: string): string | undefined
  /** That the disk of this name, declared a moment ago, can be opened, or says why not; undefined: it is so far. */
  prepared(name: string): Promise<void> | undefined
  /** Is the file of this name, under whatever export name, a declared disk's? */
  owns(fileName: string): boolean
  names(): readonly string[]
}

/** What a catalog is made of. */
export interface CatalogSources {
  /** The server's own rules: the outer bound of every disk's. Looked at anew each time, so that they may change. */
  readonly access: AccessRules
  readonly names: NameRules
  readonly undeclared: UndeclaredDisks | undefined
  readonly declared: DeclaredDisks | undefined
}

/** Names and their exports, as one client may see them. */
export interface Catalog {
  /**
   * Waits for a disk that was declared a moment ago, which `resolve` would have to refuse.
   * @throws ExportNameError
   */
  prepared(rawName: Uint8Array): Promise<void> | undefined
  /**
   * The export of a name as it came over the wire. Nothing is made or looked at on a disk.
   * @throws ExportNameError, ExportRefusal
   */
  resolve(rawName: Uint8Array, peer: Peer): Export
  /** Names that this client may open, sorted, the empty one first. */
  list(peer: Peer): Promise<Listed[]>
  /** Why a client that has this export open may not have it any more; undefined if it may. */
  revocation(open: Export, peer: Peer): string | undefined
  /** What each client that has this export open may use of it now. */
  limits(open: Export): RateLimits
}

/** Most names in a list; a longer one is cut. */
const MAX_LISTED = 10_000

/** Are these the same terms to somebody who negotiated on the first? */
function sameTerms(open: Export, now: Export): boolean {
  return open.backend === now.backend && open.readOnly === now.readOnly && open.temporary === now.temporary
}

function isAdmitted(access: AccessRules | undefined, peer: Peer): boolean {
  return access === undefined || admissionRefusal(access, peer) === undefined
}

/** Could a certificate, which this peer has not shown, still get it in? */
export function needsCertificate({ allow, deny }: AccessRules, peer: Peer): boolean {
  return (
    peer.distinguishedName === undefined &&
    allow.some(rule => rule.needsTls) &&
    admissionRefusal({ allow: [], deny }, peer) === undefined
  )
}

function refusal(name: string, access: AccessRules, peer: Peer): ExportRefusal {
  if (needsCertificate(access, peer)) {
    return new ExportRefusal('tls', `Using ${name} needs TLS and a certificate that its rules admit.`)
  }
  return new ExportRefusal('policy', `You are not allowed to use ${name}.`)
}

function ticketRefusal(name: string, ticket: string | undefined): ExportRefusal {
  if (ticket !== undefined) return new ExportRefusal('policy', TICKET_WITHDRAWN)
  return new ExportRefusal('policy', `The disk ${name} is for those only to whom it has been given.`)
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A name that only the protocol's own rules hold for: UTF-8 without NUL (proto.md, "String formatting"). */
function decodeName(rawName: Uint8Array): string {
  try {
    const name = utf8.decode(rawName)
    if (!name.includes('\0')) return name
  } catch {
    throw new ExportNameError('NotUtf8', 'The export name is not UTF-8.')
  }
  throw new ExportNameError('ControlCharacter', 'The export name holds a NUL.')
}

/** Puts the catalog together from its sources; a declared name goes before an undeclared one. */
export function createCatalog({ access, names, undeclared, declared }: CatalogSources): Catalog {
  const undeclaredExport = (name: string, requestedSize: number | undefined): Export => {
    if (undeclared === undefined) {
      throw new ExportRefusal('unknown', `There is no disk named ${name} here, and none is made on demand.`)
    }
    const { maxSize, unlocked = false, anyName: _, declare, ...terms } = undeclared
    if (requestedSize !== undefined && maxSize !== undefined && requestedSize > maxSize) {
      throw new ExportRefusal('policy', `At most ${formatSize(maxSize)} may be asked for.`)
    }
    const common = { name, access: undefined, requestedSize, limits: NO_LIMITS, unlocked, ...terms }
    if (declare === undefined) return common
    return {
      ...common,
      declare: (peer, signal) => declare({ name, size: requestedSize, peer }, signal),
    }
  }

  const find = (name: string, requestedSize: number | undefined): Export => {
    const problem = declared?.problem(name)
    if (problem !== undefined) throw new ExportRefusal('unknown', problem)
    return declared?.find(name) ?? undeclaredExport(name, requestedSize)
  }

  const maySeeListed = (name: string, peer: Peer): boolean => {
    const key = name === '' ? DEFAULT_NAME : name
    if (declared?.problem(key) !== undefined) return false
    return isAdmitted(declared?.find(key)?.access, peer)
  }

  /** The name of a declared disk, and a ticket for it. */
  const parseTicket = (rawName: Uint8Array): { name: string; ticket: string } | undefined => {
    const { name: raw, ticket } = splitTicket(rawName)
    if (ticket === undefined) return undefined
    const { name } = parseRequestedName(raw, { rules: names })
    const isDeclared = declared?.find(name) !== undefined || declared?.problem(name) !== undefined
    return isDeclared ? { name, ticket } : undefined
  }

  const parseName = (rawName: Uint8Array): RequestedName & { readonly ticket?: string } => {
    if (undeclared?.anyName) return { name: decodeName(rawName) }
    const ticketed = parseTicket(rawName)
    if (ticketed) return ticketed
    return parseRequestedName(rawName, { rules: names, sizes: undeclared?.maxSize !== undefined })
  }

  return {
    prepared: rawName => declared?.prepared(parseName(rawName).name),

    resolve(rawName, peer) {
      const { name, requestedSize, ticket } = parseName(rawName)
      if (!isAdmitted(access, peer)) throw refusal(name, access, peer)
      const found = find(name, requestedSize)
      if (found.access !== undefined && !isAdmitted(found.access, peer))
        throw refusal(name, found.access, peer)
      if (!admitsTicket(found.tickets, ticket)) throw ticketRefusal(name, ticket)
      return ticket === undefined ? found : { ...found, ticket }
    },

    async list(peer) {
      if (!isAdmitted(access, peer)) return []
      const listed = new Map<string, Listed>()
      for (const one of (await undeclared?.backend.listExports?.()) ?? []) listed.set(nameOf(one), one)
      for (const name of declared?.names() ?? []) listed.set(name, name)
      return [...listed.keys()]
        .filter(name => maySeeListed(name, peer))
        .sort()
        .slice(0, MAX_LISTED)
        .map(name => listed.get(name) ?? name)
    },

    revocation(open, peer) {
      const serverRule = admissionRefusal(access, peer)
      if (serverRule !== undefined) return serverRule
      const now = declared?.find(open.name)
      if (open.backend === undeclared?.backend) {
        const isDeclared = now !== undefined || declared?.owns(open.name)
        return isDeclared ? 'The disk is declared by a manifest now.' : undefined
      }
      if (now === undefined) return 'The disk is not declared any more.'
      if (!sameTerms(open, now)) return 'The disk is served on other terms now.'
      if (!admitsTicket(now.tickets, open.ticket)) return ticketRefusal(open.name, open.ticket).message
      if (now.access !== undefined) return admissionRefusal(now.access, peer)
      return undefined
    },

    limits: open => declared?.find(open.name)?.limits ?? open.limits,
  }
}
