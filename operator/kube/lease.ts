/**
 * Election by a Lease: of several candidates one leads. The algorithm is client-go's. A candidate takes the Lease when
 * it has seen no change of it for as long as the Lease is to last; it never compares the times that others wrote, whose
 * clocks may be wrong. A leader that cannot renew gives up well before.
 *
 * That keeps two from leading at once as long as clocks run equally fast, but a leader that was stopped for long
 * (SIGSTOP, a frozen machine) may act on after it was replaced, until it notices. So every step of a reconciler has
 * to be safe to do twice, and writes should carry a resourceVersion.
 */
import { isDeepStrictEqual } from 'node:util'
import type { KubeClient } from './client.ts'
import { sleep } from './deadline.ts'
import { hasCode } from './kube-error.ts'
import { type KubeLog, reasonOf } from './log.ts'
import { LEASES, type Lease } from './objects.ts'

export interface ElectionTerms {
  readonly client: KubeClient
  readonly namespace: string
  readonly name: string
  /** Of this candidate, unlike all others' also after a restart: POD-NAME_RANDOM. */
  readonly identity: string
  /** After so long without a change of the Lease others may take it, in ms. Default: 15 s. */
  readonly leaseMs?: number
  /** A leader that has not renewed for so long gives up, in ms. Default: 10 s. */
  readonly renewDeadlineMs?: number
  /** Between two tries, in ms; candidates wait up to 1.2 times as long on top. Default: 2 s. */
  readonly retryMs?: number
  readonly log?: KubeLog
}

export interface Election {
  /** Resolves when this candidate leads; never, if it is stopped before. */
  readonly leading: Promise<void>
  /** Resolves when it led and does no more, unless it was stopped: the program has to end at once. */
  readonly lost: Promise<void>
  /** Whether it leads now, by its own clock. */
  readonly isLeader: boolean
  /** Who leads, as far as is known. */
  readonly holder: string | undefined
  /** Ends the candidacy. A leader gives the Lease back, so that the next one need not wait for its end. */
  stop(): Promise<void>
}

const LEASE_MS = 15_000
const RENEW_DEADLINE_MS = 10_000
const RETRY_MS = 2000
const JITTER = 0.2
/** Tries of a candidate at the end of another's Lease are spread over so long, in ms. */
const SPREAD_MS = 100

/** Starts to run for leader. */
export function startElection(terms: ElectionTerms): Election {
  const { client, namespace, name, identity, log } = terms
  const { leaseMs = LEASE_MS, renewDeadlineMs = RENEW_DEADLINE_MS, retryMs = RETRY_MS } = terms
  const stopped = new AbortController()
  const { signal } = stopped
  const leading = Promise.withResolvers<void>()
  const lost = Promise.withResolvers<void>()
  /** The Lease as it was last seen, and when a change of it was last seen, by this process's own clock. */
  let seen: Lease | undefined
  let changedAt = Number.NEGATIVE_INFINITY
  /** When the last renewal that succeeded was sent; undefined for who does not lead. */
  let renewedAt: number | undefined

  const see = (lease: Lease, at: number) => {
    if (!seen || !isDeepStrictEqual(seen.spec, lease.spec)) changedAt = at
    seen = lease
  }
  const holderOf = (lease: Lease | undefined) => lease?.spec?.holderIdentity || undefined
  const expiresAt = () => changedAt + (seen?.spec?.leaseDurationSeconds ?? leaseMs / 1000) * 1000

  function specFor(old: Lease['spec'], now: string): NonNullable<Lease['spec']> {
    const mine = old?.holderIdentity === identity
    return {
      holderIdentity: identity,
      leaseDurationSeconds: leaseMs / 1000,
      renewTime: now,
      acquireTime: (mine && old?.acquireTime) || now,
      leaseTransitions: (old?.leaseTransitions ?? 0) + (mine ? 0 : 1),
    }
  }

  /** Takes or renews the Lease if it is free or one's own. Whether it did. */
  async function tryOnce(timeoutMs: number): Promise<boolean> {
    const options = { signal, timeoutMs }
    const sentAt = performance.now()
    const now = microTime()
    if (seen && renewedAt !== undefined && performance.now() < expiresAt()) {
      // One's own and valid: nobody else has written, so that it need not be read.
      try {
        see(await client.update(LEASES, { ...seen, spec: specFor(seen.spec, now) }, options), sentAt)
        return true
      } catch (error) {
        if (!hasCode(error, 'Conflict', 'NotFound')) throw error
      }
    }
    const found = await client.find(LEASES, { namespace, name }, options)
    if (!found) {
      const lease = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { namespace, name },
        spec: { ...specFor(undefined, now), leaseTransitions: 0 },
      }
      see(await client.create(LEASES, lease, options), sentAt)
      return true
    }
    see(found, performance.now())
    const holder = holderOf(found)
    if (holder !== undefined && holder !== identity && performance.now() < expiresAt()) return false
    see(await client.update(LEASES, { ...found, spec: specFor(found.spec, now) }, options), sentAt)
    return true
  }

  async function attempt(timeoutMs: number): Promise<boolean> {
    const sentAt = performance.now()
    try {
      if (!(await tryOnce(timeoutMs))) return false
      renewedAt = sentAt
      return true
    } catch (error) {
      if (signal.aborted) return false
      const quiet = hasCode(error, 'Conflict', 'AlreadyExists')
      log?.[quiet ? 'debug' : 'warn']({ lease: name, ...reasonOf(error) }, 'The Lease cannot be had')
      return false
    }
  }

  async function acquire(): Promise<void> {
    let known: string | undefined
    while (!(await attempt(renewDeadlineMs))) {
      signal.throwIfAborted()
      const holder = holderOf(seen)
      if (holder !== known) log?.info({ lease: name, holder: holder ?? null }, 'Another candidate leads')
      known = holder
      const period = retryMs * (1 + Math.random() * JITTER)
      // No later than when the Lease ends: who waits must not add a period of his own to the leader's.
      const toEnd = expiresAt() - performance.now()
      const soon = holder !== undefined && toEnd > 0
      await sleep(soon ? Math.min(period, toEnd + Math.random() * SPREAD_MS) : period, signal)
    }
  }

  /** Returns when the Lease could not be renewed in time. */
  async function renew(): Promise<void> {
    for (;;) {
      const since = renewedAt ?? Number.NEGATIVE_INFINITY
      const left = since + renewDeadlineMs - performance.now()
      if (left <= 0) return
      await sleep(Math.min(retryMs, left), signal)
      const rest = since + renewDeadlineMs - performance.now()
      if (rest <= 0) return
      const renewed = await attempt(rest)
      signal.throwIfAborted()
      if (!renewed && holderOf(seen) !== identity) return
    }
  }

  async function run(): Promise<void> {
    try {
      await acquire()
      log?.info({ lease: name, identity }, 'Leading')
      leading.resolve()
      await renew()
    } catch (error) {
      if (!signal.aborted) throw error
      return
    }
    renewedAt = undefined
    log?.error({ lease: name, holder: holderOf(seen) ?? null }, 'The Lease is lost')
    lost.resolve()
  }

  async function release(): Promise<void> {
    if (!seen || renewedAt === undefined) return
    renewedAt = undefined
    const now = microTime()
    // Valid for a second and held by nobody, as client-go leaves it.
    const spec = {
      ...seen.spec,
      holderIdentity: '',
      leaseDurationSeconds: 1,
      renewTime: now,
      acquireTime: now,
    }
    try {
      await client.update(LEASES, { ...seen, spec }, { timeoutMs: retryMs })
      log?.info({ lease: name }, 'The Lease is given back')
    } catch (error) {
      log?.warn({ lease: name, ...reasonOf(error) }, 'The Lease cannot be given back')
    }
  }

  const running = run()
  return {
    leading: leading.promise,
    lost: lost.promise,
    get isLeader() {
      return renewedAt !== undefined && performance.now() - renewedAt < leaseMs
    },
    get holder() {
      return holderOf(seen)
    },
    async stop() {
      stopped.abort(new Error('Stopped.'))
      await running
      await release()
    },
  }
}

/** Now, as MicroTime wants it. */
function microTime(): string {
  return new Date().toISOString().replace('Z', '000Z')
}
