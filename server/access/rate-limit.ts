/**
 * Rate limits by token buckets that may go into debt. A request is charged as a whole when it comes. It begins as soon
 * as all that was charged before it is paid. So a request of any size passes, the requests of a client begin in the
 * order in which they came, and in the long run the rate is met exactly.
 */

/** What a client may use a second. Absent: no limit. */
export interface RateLimits {
  readonly readBytesPerSecond?: number | undefined
  readonly writeBytesPerSecond?: number | undefined
  /** Requests of any kind. */
  readonly iops?: number | undefined
}

export const NO_LIMITS: RateLimits = {}

/** What a request moves; `neither` counts as an operation only. */
export type Direction = 'read' | 'write' | 'neither'

/**
 * How much an idle client saves up, in ms of its rate. It also makes up for timers that fire late, so it has to
 * be well above their lateness.
 */
export const BURST_MS = 250

/** Do both say the same? */
export function areSameLimits(one: RateLimits, other: RateLimits): boolean {
  return (
    one.readBytesPerSecond === other.readBytesPerSecond &&
    one.writeBytesPerSecond === other.writeBytesPerSecond &&
    one.iops === other.iops
  )
}

/** Is there any limit? */
export function isLimited(limits: RateLimits): boolean {
  return !areSameLimits(limits, NO_LIMITS)
}

/** Places in a bucket's state. Numbers that stand in an array are changed without allocating, unlike those in fields. */
const PER_MS = 0
const BALANCE = 1
const AT = 2

/** One resource: tokens come at a steady rate, and may be taken before they have come. Times are ms of one steady clock. */
export class TokenBucket {
  readonly #state = new Float64Array(3)

  /** Begins full. `perSecond` is above 0. */
  constructor(perSecond: number, now: number) {
    this.#state[PER_MS] = perSecond / 1000
    this.#state[BALANCE] = (perSecond / 1000) * BURST_MS
    this.#state[AT] = now
  }

  /** Takes so many tokens, and returns in how many ms those are there that were taken before: 0 if they are. */
  take(tokens: number, now: number): number {
    const wait = this.debt(now)
    this.#state[BALANCE] = (this.#state[BALANCE] as number) - tokens
    return wait
  }

  /** In how many ms all that was taken is there. */
  debt(now: number): number {
    this.#refill(now)
    const balance = this.#state[BALANCE] as number
    return balance < 0 ? -balance / (this.#state[PER_MS] as number) : 0
  }

  /** Goes on at another rate. What is owed stays owed, and is paid at the new rate. */
  setRate(perSecond: number, now: number): void {
    this.#refill(now)
    this.#state[PER_MS] = perSecond / 1000
    this.#refill(now)
  }

  #refill(now: number): void {
    const state = this.#state
    const perMs = state[PER_MS] as number
    const elapsed = Math.max(0, now - (state[AT] as number))
    state[AT] = (state[AT] as number) + elapsed
    state[BALANCE] = Math.min(perMs * BURST_MS, (state[BALANCE] as number) + elapsed * perMs)
  }
}

/** What one client has used, however many connections it has. */
export class RateAccount {
  #limits: RateLimits = NO_LIMITS
  #read: TokenBucket | undefined
  #write: TokenBucket | undefined
  #operations: TokenBucket | undefined

  constructor(limits: RateLimits, now: number) {
    this.setLimits(limits, now)
  }

  get limits(): RateLimits {
    return this.#limits
  }

  /** Other limits hold from now on. */
  setLimits(limits: RateLimits, now: number): void {
    if (areSameLimits(limits, this.#limits)) return
    this.#limits = limits
    this.#read = bucketFor(this.#read, limits.readBytesPerSecond, now)
    this.#write = bucketFor(this.#write, limits.writeBytesPerSecond, now)
    this.#operations = bucketFor(this.#operations, limits.iops, now)
  }

  /** Charges one request, and returns in how many ms it may begin: 0 means at once. */
  charge(direction: Direction, bytes: number, now: number): number {
    const forOperation = this.#operations?.take(1, now) ?? 0
    if (direction === 'neither') return forOperation
    const bucket = direction === 'read' ? this.#read : this.#write
    return Math.max(forOperation, bucket?.take(bytes, now) ?? 0)
  }

  /** Is something charged that has not been paid? */
  owes(now: number): boolean {
    return [this.#read, this.#write, this.#operations].some(bucket => (bucket?.debt(now) ?? 0) > 0)
  }
}

function bucketFor(
  bucket: TokenBucket | undefined,
  perSecond: number | undefined,
  now: number,
): TokenBucket | undefined {
  if (perSecond === undefined) return undefined
  if (bucket === undefined) return new TokenBucket(perSecond, now)
  bucket.setRate(perSecond, now)
  return bucket
}

interface Entry {
  readonly account: RateAccount
  users: number
}

/** Most accounts that are remembered for clients who have left in debt. */
const MAX_INDEBTED = 1024

/** The accounts of all clients. One that left in debt finds its debt again, so that coming back is no way out of a limit. */
export class RateAccounts {
  readonly #entries = new Map<string, Entry>()
  /** Keys of accounts without users, the first to leave first. */
  readonly #left = new Set<string>()

  /** Accounts in use, and those remembered. */
  get size(): number {
    return this.#entries.size
  }

  /** The account under this key, with these limits; to be given back by `release`. */
  open(key: string, limits: RateLimits, now: number): RateAccount {
    const entry = this.#entries.get(key) ?? { account: new RateAccount(limits, now), users: 0 }
    this.#entries.set(key, entry)
    this.#left.delete(key)
    entry.users++
    entry.account.setLimits(limits, now)
    return entry.account
  }

  /** One user of the account has gone. */
  release(key: string, now: number): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) return
    entry.users--
    if (entry.users === 0) this.#left.add(key)
    this.#sweep(now)
  }

  #sweep(now: number): void {
    for (const key of this.#left) {
      const isPaid = this.#entries.get(key)?.account.owes(now) !== true
      if (!isPaid && this.#left.size <= MAX_INDEBTED) continue
      this.#left.delete(key)
      this.#entries.delete(key)
    }
  }
}
