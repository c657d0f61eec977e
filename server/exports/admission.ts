/**
 * Who holds which disk: one client that writes, with one or several connections, or any number of
 * readers. A client that may wait does so in line, without being in the way of anybody else.
 */

/** A client's wish to use a disk. */
export interface Claim {
  /** The disk, under one name however clients call it. */
  readonly disk: string
  /** Which client this is: connections with the same identity are one client. */
  readonly client: string
  /** Nobody else may use the disk at the same time. */
  readonly exclusive: boolean
  /** Connections that one client may have if exclusive. */
  readonly connections: number
}

/** Leave to use a disk, until it is given back. */
export interface Place {
  release(): void
}

/** How long to wait for a disk that is held, in ms. */
export type Patience = number | 'unlimited'

/** The disk is held by somebody else. */
export class DiskHeldError extends Error {
  override readonly name = 'DiskHeldError'
  readonly code = 'EBUSY'
}

interface Waiter {
  readonly claim: Claim
  readonly admit: (place: Place) => void
}

interface Holder {
  readonly claim: Claim
  readonly since: Date
}

interface Disk {
  /** One for each connection, the oldest first. */
  readonly holders: Set<Holder>
  readonly waiters: Set<Waiter>
}

function oldest({ holders }: Disk): Holder | undefined {
  const [first] = holders
  return first
}

function fits(disk: Disk, claim: Claim): boolean {
  const holder = oldest(disk)?.claim
  if (holder === undefined) return true
  if (!holder.exclusive && !claim.exclusive) return true
  const isOwn = holder.exclusive && claim.exclusive && holder.client === claim.client
  return isOwn && disk.holders.size < claim.connections
}

function refusal(disk: Disk, claim: Claim): DiskHeldError {
  const holder = oldest(disk) as Holder
  const since = holder.since.toISOString()
  const { size } = disk.holders
  if (holder.claim.client === claim.client && holder.claim.exclusive) {
    const count = size === 1 ? '1 connection' : `${size} connections`
    return new DiskHeldError(
      `Disk ${claim.disk} already has ${count} from ${claim.client}, since ${since}; a client may have ${claim.connections}.`,
    )
  }
  const others = size === 1 ? '' : ` and ${size - 1} more`
  return new DiskHeldError(`Disk ${claim.disk} is in use by ${holder.claim.client}${others} since ${since}.`)
}

/** The table of all disks in use. */
export class Admission {
  readonly #disks = new Map<string, Disk>()

  /** Disks that somebody holds or waits for. */
  get size(): number {
    return this.#disks.size
  }

  /** Current holder and number of connections of a disk, if it is in use. */
  holderOf(name: string): { client: string; since: Date; connections: number } | undefined {
    const disk = this.#disks.get(name)
    const holder = disk && oldest(disk)
    return holder && { client: holder.claim.client, since: holder.since, connections: disk.holders.size }
  }

  /**
   * Takes a place on a disk, waiting for it up to `patience`.
   * @throws DiskHeldError naming the holder, or the signal's reason when it is aborted while waiting
   */
  async enter(claim: Claim, patience: Patience, signal: AbortSignal): Promise<Place> {
    signal.throwIfAborted()
    const disk = this.#disks.get(claim.disk) ?? { holders: new Set(), waiters: new Set() }
    this.#disks.set(claim.disk, disk)
    // A reader does not pass a writer that waits; a further connection of the client that writes may.
    const isNext = claim.exclusive || disk.waiters.size === 0
    if (isNext && fits(disk, claim)) return this.#admit(disk, claim)
    if (patience === 0) throw refusal(disk, claim)
    return this.#wait(disk, claim, patience, signal)
  }

  #admit(disk: Disk, claim: Claim): Place {
    const holder = { claim, since: new Date() }
    disk.holders.add(holder)
    return {
      release: () => {
        if (!disk.holders.delete(holder)) return
        this.#admitWaiting(disk)
        this.#forget(disk, claim.disk)
      },
    }
  }

  /**
   * Nobody is passed by another client. Further connections of the client that writes are let in all the
   * same: it may need all of them before it begins, and would wait for ever for who waits for it.
   */
  #admitWaiting(disk: Disk): void {
    let isBlocked = false
    for (const waiter of disk.waiters) {
      if (fits(disk, waiter.claim) && (waiter.claim.exclusive || !isBlocked)) {
        disk.waiters.delete(waiter)
        waiter.admit(this.#admit(disk, waiter.claim))
      } else {
        isBlocked = true
      }
    }
  }

  #forget(disk: Disk, name: string): void {
    if (disk.holders.size === 0 && disk.waiters.size === 0 && this.#disks.get(name) === disk) {
      this.#disks.delete(name)
    }
  }

  #wait(disk: Disk, claim: Claim, patience: Patience, signal: AbortSignal): Promise<Place> {
    return new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        disk.waiters.delete(waiter)
      }
      const giveUp = (reason: unknown) => {
        stop()
        reject(reason)
        // Others may have waited for this one only.
        this.#admitWaiting(disk)
        this.#forget(disk, claim.disk)
      }
      const waiter: Waiter = {
        claim,
        admit: place => {
          stop()
          resolve(place)
        },
      }
      const onAbort = () => giveUp(signal.reason)
      const timer =
        patience === 'unlimited' ? undefined : setTimeout(() => giveUp(refusal(disk, claim)), patience)
      signal.addEventListener('abort', onAbort, { once: true })
      disk.waiters.add(waiter)
    })
  }
}
