/** Which of a pool's disks have a place in it, and how large they may be: `quota` and `maxDisks`. */
import { formatSize } from '../../crds/quantity.ts'

/** A disk as far as the limits are concerned. */
export interface Claimant {
  readonly uid: string
  /** RFC 3339. */
  readonly createdAt: string
  /** Bytes that its spec asks for; 0 for what takes no lasting place: temporary disks and those with upstream. */
  readonly size: number
  /** Bytes that it has, where that is known. */
  readonly currentSize?: number | undefined
  /** It is made, or being made: it keeps its place, whatever the limits have become. */
  readonly started: boolean
}

export interface PoolLimits {
  /** Bytes. */
  readonly quota?: number | undefined
  readonly maxDisks?: number | undefined
  /** Bytes of the quota that snapshots have. */
  readonly snapshots?: number | undefined
}

/** `size`: bytes that the disk may have, which are fewer than it asks for where its growth has no place. */
export type Allotment =
  | { readonly size: number; readonly refusal?: Refusal }
  | { readonly size?: undefined; readonly refusal: Refusal }

export interface Refusal {
  readonly reason: 'QuotaExceeded' | 'TooManyDisks'
  /** Names the limit. */
  readonly message: string
}

function byAge(a: Claimant, b: Claimant): number {
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1
  return a.uid < b.uid ? -1 : 1
}

/**
 * Gives out the places of a pool: first to disks that are there, as large as they are, then to their growth, then to
 * new ones; the oldest first. One that does not fit does not keep a smaller one behind it out.
 */
export function allot(
  claimants: Iterable<Claimant>,
  { quota = Number.POSITIVE_INFINITY, maxDisks = Number.POSITIVE_INFINITY, snapshots = 0 }: PoolLimits,
): Map<string, Allotment> {
  const all = [...claimants].sort(byAge)
  const started = all.filter(disk => disk.started)
  const result = new Map<string, Allotment>()
  let used = snapshots
  for (const { uid, size, currentSize = size } of started) {
    used += currentSize
    result.set(uid, { size: currentSize })
  }
  for (const { uid, size, currentSize = size } of started) {
    const more = size - currentSize
    if (more <= 0) continue
    if (used + more > quota) {
      const refusal = overQuota(more, used, quota, 'more ')
      result.set(uid, { size: currentSize, refusal })
      continue
    }
    used += more
    result.set(uid, { size })
  }
  let count = started.length
  for (const disk of all) {
    if (disk.started) continue
    const { uid, size } = disk
    const refusal = refusalFor(disk, { used, count }, { quota, maxDisks })
    if (refusal) {
      result.set(uid, { refusal })
      continue
    }
    count++
    used += size
    result.set(uid, { size })
  }
  return result
}

/** Why a new disk has no place behind those that have `used` bytes and are `count` disks; undefined where it has. */
export function refusalFor(
  { size }: Claimant,
  { used, count }: { readonly used: number; readonly count: number },
  { quota = Number.POSITIVE_INFINITY, maxDisks = Number.POSITIVE_INFINITY }: PoolLimits,
): Refusal | undefined {
  if (count >= maxDisks) return tooMany(maxDisks)
  return size > 0 && used + size > quota ? overQuota(size, used, quota) : undefined
}

function tooMany(maxDisks: number): Refusal {
  return {
    reason: 'TooManyDisks',
    message: `The pool has ${maxDisks} ${maxDisks === 1 ? 'disk' : 'disks'} already, which is its limit (spec.onDemand.maxDisks). Delete one, or raise it.`,
  }
}

function overQuota(size: number, used: number, quota: number, more = ''): Refusal {
  return {
    reason: 'QuotaExceeded',
    message: `The disk takes ${formatSize(size)} ${more}of the pool, which has given out ${formatSize(used)} of ${formatSize(quota)} (spec.quota). Delete a disk, or raise it.`,
  }
}

/** Why a snapshot of so many bytes has no place beside what the pool has given out; undefined where it has. */
export function snapshotRefusal(size: number, used: number, quota: number | undefined): Refusal | undefined {
  if (quota === undefined || used + size <= quota) return undefined
  return {
    reason: 'QuotaExceeded',
    message: `The snapshot takes ${formatSize(size)} of the pool, which has given out ${formatSize(used)} of ${formatSize(quota)} (spec.quota). Delete a disk or a snapshot, or raise it.`,
  }
}
