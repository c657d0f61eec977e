import { contains, type IpAddress, type Network, parseAddress, parseNetwork } from './ip-address.ts'
import { quote } from './quote.ts'

/** Who connects. An address may be IPv4-mapped and may carry a zone, as `socket.remoteAddress` has it. */
export type Peer = ({ readonly kind: 'ip'; readonly address: string } | { readonly kind: 'unix' }) & {
  /** Subject of the certificate that the client has proven by TLS. */
  readonly distinguishedName?: string
}

/** One rule, where it stands and what it matches. */
export type AccessRule = {
  /** Where it was given: `allow[0]`. */
  readonly field: string
  /** As it was given. */
  readonly text: string
  /** Only a client with a certificate can match it; where there is no TLS the rule is to be refused. */
  readonly needsTls: boolean
} & (
  | { readonly kind: 'any' | 'anyipv4' | 'anyipv6' | 'unix' }
  | { readonly kind: 'network'; readonly network: Network }
  | { readonly kind: 'dn'; readonly pattern: string }
)

export interface AccessRules {
  readonly allow: readonly AccessRule[]
  readonly deny: readonly AccessRule[]
}

/** A rule that cannot be understood. */
export class AccessRuleError extends Error {
  override readonly name = 'AccessRuleError'
  readonly code = 'InvalidAccessRule'
  /** Where the rule stands: `allow[0]`. */
  readonly field: string
  /** What is wrong with it, with its text but without its place. */
  readonly reason: string

  constructor(field: string, reason: string) {
    super(`${field}: ${reason}`)
    this.field = field
    this.reason = reason
  }
}

const MAX_RULE = 256
const MAX_DISTINGUISHED_NAME = 4096

/**
 * Parses rules: an address, a CIDR (bits after its prefix are ignored), `any`, `anyipv4`, `anyipv6`, `unix`,
 * or `dn:PATTERN`, in which `*` stands for any run of characters and `?` for one.
 * @throws AccessRuleError for the first rule that is not understood
 */
export function compileAccessRules(texts: {
  readonly allow?: readonly string[]
  readonly deny?: readonly string[]
}): AccessRules {
  return {
    allow: (texts.allow ?? []).map((text, index) => compileRule(text, `allow[${index}]`)),
    deny: (texts.deny ?? []).map((text, index) => compileRule(text, `deny[${index}]`)),
  }
}

/** Is this peer admitted: does no deny rule match and, where there are allow rules, one of them? */
export function admits(rules: AccessRules, peer: Peer): boolean {
  return admissionRefusal(rules, peer) === undefined
}

/**
 * Why this peer is not admitted, as a sentence naming the rule; undefined if it is. A peer that cannot be
 * identified (of an unknown kind, or with an address that is none) is never admitted.
 */
export function admissionRefusal(rules: AccessRules, peer: Peer): string | undefined {
  const identity = identify(peer)
  if (!identity) return 'The client cannot be identified and is refused.'
  const denied = rules.deny.find(rule => matches(rule, identity))
  if (denied) return `Client ${identity.shown} is refused by deny rule ${quote(denied.text)}.`
  if (rules.allow.length === 0 || rules.allow.some(rule => matches(rule, identity))) return undefined
  return `Client ${identity.shown} is refused: no allow rule matches it.`
}

function compileRule(text: string, field: string): AccessRule {
  const common = { field, text, needsTls: false }
  if (text === 'any' || text === 'anyipv4' || text === 'anyipv6' || text === 'unix') {
    return { ...common, kind: text }
  }
  if (text.length > MAX_RULE) {
    throw new AccessRuleError(
      field,
      `${quote(text)} is longer than the ${MAX_RULE} characters of an access rule.`,
    )
  }
  if (text.startsWith('dn:') && text.length > 3) {
    return { ...common, kind: 'dn', needsTls: true, pattern: text.slice(3) }
  }
  const network = parseNetwork(text)
  if (network) return { ...common, kind: 'network', network }
  throw new AccessRuleError(
    field,
    `${quote(text)} is not an access rule. Give an address such as 10.0.0.7, a CIDR such as 10.0.0.0/8 or ` +
      'fd00::/8, any, anyipv4, anyipv6, unix, or dn:PATTERN.',
  )
}

interface Identity {
  /** Undefined: a UNIX socket. */
  readonly address: IpAddress | undefined
  readonly distinguishedName: string | undefined
  readonly shown: string
}

function identify(peer: Peer): Identity | undefined {
  const { distinguishedName } = peer
  if (distinguishedName !== undefined && distinguishedName.length > MAX_DISTINGUISHED_NAME) return undefined
  switch (peer.kind) {
    case 'unix':
      return { address: undefined, distinguishedName, shown: 'on the UNIX socket' }
    case 'ip': {
      // A link-local peer's zone says by which of our interfaces it came, not who it is.
      const [text = ''] = peer.address.split('%', 1)
      const address = parseAddress(text)
      return address && { address, distinguishedName, shown: peer.address }
    }
    default:
      return undefined
  }
}

function matches(rule: AccessRule, { address, distinguishedName }: Identity): boolean {
  switch (rule.kind) {
    case 'any':
      return true
    case 'anyipv4':
      return address?.length === 4
    case 'anyipv6':
      return address?.length === 16
    case 'unix':
      return address === undefined
    case 'network':
      return address !== undefined && contains(rule.network, address)
    case 'dn':
      return distinguishedName !== undefined && matchesPattern(rule.pattern, distinguishedName)
  }
}

/**
 * Only the last `*` needs to be tried again, so that the time is at most the product of both lengths: a
 * pattern must not be a way to stop the server.
 */
function matchesPattern(pattern: string, text: string): boolean {
  let p = 0
  let t = 0
  let star = -1
  let resume = 0
  while (t < text.length) {
    if (pattern[p] === '*') {
      star = p
      p += 1
      resume = t
    } else if (pattern[p] === '?' || pattern[p] === text[t]) {
      p += 1
      t += 1
    } else if (star >= 0) {
      p = star + 1
      resume += 1
      t = resume
    } else {
      return false
    }
  }
  while (pattern[p] === '*') p += 1
  return p === pattern.length
}
