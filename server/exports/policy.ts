/** Who may connect to a server and what a client may use in all, where that can change while it runs. */
import { AccessRuleError, type AccessRules, compileAccessRules } from '../../crds/access-rules.ts'
import { quote } from '../../crds/quote.ts'
import type { RateLimits } from '../access/rate-limit.ts'

/** What holds for all clients and disks of a server. */
export interface Policy {
  readonly access: AccessRules
  readonly maxConnections: number
  readonly maxConnectionsPerClient: number
  /** Of one client, by all its connections together. */
  readonly limits: RateLimits
}

/** A policy that cannot be understood. The message names the field. */
export class PolicyError extends Error {
  override readonly name = 'PolicyError'
  readonly code = 'InvalidPolicy'
}

/** Connections in all, where nothing else is said: the default of --max-connections. */
const DEFAULT_MAX_CONNECTIONS = 4096
const MAX_COUNT = 1_000_000
const MAX_IOPS = 1_000_000_000
const MAX_RULES = 1024

/** As long as nobody has said who may connect, nobody may. */
export const NOBODY: Policy = {
  access: compileAccessRules({ deny: ['any'] }),
  maxConnections: DEFAULT_MAX_CONNECTIONS,
  maxConnectionsPerClient: DEFAULT_MAX_CONNECTIONS,
  limits: {},
}

const FIELDS = ['allow', 'deny', 'maxConnections', 'maxConnectionsPerClient', 'limits']
const LIMITS = ['readBytesPerSecond', 'writeBytesPerSecond', 'iops']

/**
 * Reads a policy: a JSON object with `allow`, `deny`, `maxConnections`, `maxConnectionsPerClient` and `limits`, all
 * optional, sizes in bytes. `tls`: clients can show certificates, so that rules may ask for them.
 * @throws PolicyError for whatever is not exactly that
 */
export function parsePolicy(text: string, tls: boolean): Policy {
  const given = objectOf(parseJson(text), '', FIELDS)
  const limits = objectOf(given.limits === undefined ? {} : given.limits, 'limits', LIMITS)
  const maxConnections = countOf(given, 'maxConnections', MAX_COUNT) ?? DEFAULT_MAX_CONNECTIONS
  return {
    access: accessOf(given, tls),
    maxConnections,
    maxConnectionsPerClient: countOf(given, 'maxConnectionsPerClient', MAX_COUNT) ?? maxConnections,
    limits: {
      readBytesPerSecond: countOf(limits, 'readBytesPerSecond', Number.MAX_SAFE_INTEGER),
      writeBytesPerSecond: countOf(limits, 'writeBytesPerSecond', Number.MAX_SAFE_INTEGER),
      iops: countOf(limits, 'iops', MAX_IOPS),
    },
  }
}

type Given = Readonly<Record<string, unknown>>

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new PolicyError('It is not JSON.', { cause: error })
  }
}

function objectOf(value: unknown, field: string, known: readonly string[]): Given {
  const where = field === '' ? '' : `${field}: `
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new PolicyError(`${where}Give an object.`)
  }
  const unknown = Object.keys(value).find(key => !known.includes(key))
  if (unknown !== undefined) throw new PolicyError(`${where}There is no field ${quote(unknown)}.`)
  return value as Given
}

function countOf(given: Given, field: string, maximum: number): number | undefined {
  const value = given[field]
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= maximum) return value
  throw new PolicyError(`${field}: Give a whole number from 1 to ${maximum}.`)
}

function rulesOf(given: Given, field: 'allow' | 'deny'): readonly string[] {
  const value = given[field] ?? []
  if (Array.isArray(value) && value.length <= MAX_RULES && value.every(rule => typeof rule === 'string')) {
    return value
  }
  throw new PolicyError(`${field}: Give a list of at most ${MAX_RULES} rules.`)
}

function accessOf(given: Given, tls: boolean): AccessRules {
  try {
    const access = compileAccessRules({ allow: rulesOf(given, 'allow'), deny: rulesOf(given, 'deny') })
    const rule = tls ? undefined : [...access.allow, ...access.deny].find(({ needsTls }) => needsTls)
    if (rule !== undefined) throw new PolicyError(`${rule.field}: ${quote(rule.text)} needs TLS (--tls).`)
    return access
  } catch (error) {
    if (error instanceof AccessRuleError) throw new PolicyError(error.message, { cause: error })
    throw error
  }
}
