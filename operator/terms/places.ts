/**
 * Remembers who has a place in a pool, so that not all of its disks have to be counted for each of them. What `allot`
 * has found stays true while disks that have a place are made, and while new ones come behind the youngest. Any other
 * change has it count again. Of two limits that keep a disk out it may go on to tell the one that did so first.
 */
import { allot, type Claimant, type PoolLimits, type Refusal, refusalFor } from './allotment.ts'

interface Counted {
  readonly limits: PoolLimits
  readonly known: Map<string, { readonly claimant: Claimant; readonly refusal: Refusal | undefined }>
  /** Bytes of the quota, and disks, that have been given out. */
  used: number
  count: number
  refused: number
  /** Age of the youngest, as `allot` orders them. */
  last: string
}

export interface Places {
  /** A disk is new, or another one than it was. */
  set(claimant: Claimant): void
  /** A disk is gone. */
  delete(uid: string): void
  /** Why the disk has no place; undefined where it has one. `all` is asked only where it has to be counted again. */
  refusal(uid: string, limits: PoolLimits, all: () => Iterable<Claimant>): Refusal | undefined
}

/** Nothing is remembered yet. */
export function createPlaces(): Places {
  let counted: Counted | undefined

  function count(limits: PoolLimits, all: Iterable<Claimant>): Counted {
    const claimants = [...all]
    const allotments = allot(claimants, limits)
    const result: Counted = {
      limits,
      known: new Map(),
      used: limits.snapshots ?? 0,
      count: 0,
      refused: 0,
      last: '',
    }
    for (const claimant of claimants) put(result, claimant, allotments.get(claimant.uid)?.refusal)
    return result
  }

  return {
    set(claimant) {
      if (!counted) return
      const old = counted.known.get(claimant.uid)
      if (!old) {
        if (ageOf(claimant) < counted.last || claimant.started) counted = undefined
        else put(counted, claimant, refusalFor(claimant, counted, counted.limits))
        return
      }
      const { refusal } = old
      if (refusal !== undefined) {
        // It keeps what it has been refused, unless somebody has made it all the same.
        if (claimant.started !== old.claimant.started || !isAsLarge(claimant, old.claimant))
          counted = undefined
        return
      }
      const more = takenBy(claimant) - takenBy(old.claimant)
      const isRoomy =
        counted.refused === 0 && counted.used + more <= (counted.limits.quota ?? counted.used + more)
      if (more !== 0 && !isRoomy) {
        counted = undefined
        return
      }
      counted.used += more
      counted.known.set(claimant.uid, { claimant, refusal })
    },
    delete(uid) {
      const old = counted?.known.get(uid)
      if (!counted || !old) return
      if (counted.refused > 0) {
        counted = undefined
        return
      }
      counted.known.delete(uid)
      counted.used -= takenBy(old.claimant)
      counted.count--
    },
    refusal(uid, limits, all) {
      if (!counted || !isSameLimits(counted.limits, limits) || !counted.known.has(uid)) {
        counted = count(limits, all())
      }
      return counted.known.get(uid)?.refusal
    },
  }
}

function put(counted: Counted, claimant: Claimant, refusal: Refusal | undefined): void {
  counted.known.set(claimant.uid, { claimant, refusal })
  const age = ageOf(claimant)
  if (age > counted.last) counted.last = age
  if (refusal !== undefined) counted.refused++
  if (refusal === undefined || claimant.started) counted.count++
  // Growth that is refused leaves the disk the bytes that it has.
  if (refusal === undefined) counted.used += takenBy(claimant)
  else if (claimant.started) counted.used += claimant.currentSize ?? claimant.size
}

const ageOf = ({ createdAt, uid }: Claimant) => `${createdAt} ${uid}`

/** Bytes that a disk with a place takes: one that is made keeps what it has, and grows. */
function takenBy({ size, currentSize = size, started }: Claimant): number {
  return started ? Math.max(size, currentSize) : size
}

function isAsLarge(one: Claimant, other: Claimant): boolean {
  return one.size === other.size && (one.currentSize ?? one.size) === (other.currentSize ?? other.size)
}

function isSameLimits(one: PoolLimits, other: PoolLimits): boolean {
  return (
    one.quota === other.quota &&
    one.maxDisks === other.maxDisks &&
    (one.snapshots ?? 0) === (other.snapshots ?? 0)
  )
}
