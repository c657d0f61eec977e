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
  places: number
}

interface Disk {
  holder: Holder | undefined
  readonly waiters: Set<Waiter>
}

function fits(holder: Holder | undefined, claim: Claim): boolean {
  if (holder === undefined) return true
  if (!holder.claim.exclusive && !claim.exclusive) return true
  return (
    holder.claim.exclusive &&
    claim.exclusive &&
    holder.claim.client === claim.client &&
    holder.places < claim.connections
  )
}

function refusal(holder: Holder, claim: Claim): DiskHeldError {
  const since = holder.since.toISOString()
  if (holder.claim.client === claim.client && holder.claim.exclusive) {
    const count = holder.places === 1 ? '1 connection' : `${holder.places} connections`
    return new DiskHeldError(
      `Disk ${claim.disk} already has ${count} from ${claim.client}, since ${since}; a client may have ${claim.connections}.`,
    )
  }
  const others = holder.places === 1 ? '' : ` and ${holder.places - 1} more`
  return new DiskHeldError(`Disk ${claim.disk} is in use by ${holder.claim.client}${others} since ${since}.`)
}

/** The table of all disks in use. */
export class Admission {
  readonly #disks = new Map<string, Disk>()

  /** Current holder and number of connections of a disk, if it is in use. */
  holderOf(disk: string): { client: string; since: Date; connections: number } | undefined {
    const holder = this.#disks.get(disk)?.holder
    return holder && { client: holder.claim.client, since: holder.since, connections: holder.places }
  }

  /**
   * Takes a place on a disk, waiting for it up to `patience`.
   * @throws DiskHeldError naming the holder, or the signal's reason when it is aborted while waiting
   */
  async enter(claim: Claim, patience: Patience, signal: AbortSignal): Promise<Place> {
    signal.throwIfAborted()
    const disk = this.#disks.get(claim.disk) ?? { holder: undefined, waiters: new Set() }
    this.#disks.set(claim.disk, disk)
    if (fits(disk.holder, claim)) return this.#admit(disk, claim)
    if (patience === 0) throw refusal(disk.holder as Holder, claim)
    return this.#wait(disk, claim, patience, signal)
  }

  #admit(disk: Disk, claim: Claim): Place {
    if (disk.holder === undefined) disk.holder = { claim, since: new Date(), places: 1 }
    else disk.holder.places++
    let released = false
    return {
      release: () => {
        if (released) return
        released = true
        this.#leave(disk, claim)
      },
    }
  }

  #leave(disk: Disk, claim: Claim): void {
    const holder = disk.holder as Holder
    holder.places--
    if (holder.places === 0) disk.holder = undefined
    for (const waiter of disk.waiters) {
      if (!fits(disk.holder, waiter.claim)) break
      disk.waiters.delete(waiter)
      waiter.admit(this.#admit(disk, waiter.claim))
    }
    this.#forget(disk, claim.disk)
  }

  #forget(disk: Disk, name: string): void {
    if (disk.holder === undefined && disk.waiters.size === 0 && this.#disks.get(name) === disk) {
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
      const waiter: Waiter = {
        claim,
        admit: place => {
          stop()
          resolve(place)
        },
      }
      const onAbort = () => {
        stop()
        this.#forget(disk, claim.disk)
        reject(signal.reason)
      }
      const timer =
        patience === 'unlimited'
          ? undefined
          : setTimeout(() => {
              stop()
              reject(refusal(disk.holder as Holder, claim))
            }, patience)
      signal.addEventListener('abort', onAbort, { once: true })
      disk.waiters.add(waiter)
    })
  }
}
