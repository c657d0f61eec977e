/** What the requests of one connection are charged to: what its client may use in all, and what of this disk. */
import { areSameLimits, type RateAccount, type RateAccounts, type RateLimits } from '../access/rate-limit.ts'

export interface ClientAccounts {
  readonly all: readonly RateAccount[]
  /** The limits of the client in all and of the disk are these from now on; false if they were already. */
  follow(client: RateLimits, disk: RateLimits): boolean
  /** The connection is over. */
  close(): void
}

/** Opens the accounts of a client that opens a disk. All connections of one client to one disk share them. */
export function openClientAccounts(
  accounts: RateAccounts,
  client: { readonly identity: string; readonly limits: RateLimits },
  disk: { readonly name: string; readonly limits: RateLimits },
): ClientAccounts {
  const clientKey = `client\n${client.identity}`
  // No name holds a line break.
  const diskKey = `disk\n${disk.name}\n${client.identity}`
  const now = performance.now()
  const ofClient = accounts.open(clientKey, client.limits, now)
  const ofDisk = accounts.open(diskKey, disk.limits, now)
  const followed = [
    { account: ofClient, limits: client.limits },
    { account: ofDisk, limits: disk.limits },
  ]
  return {
    all: [ofClient, ofDisk],
    follow(...next) {
      let changed = false
      for (const [index, entry] of followed.entries()) {
        const limits = next[index] as RateLimits
        if (areSameLimits(entry.limits, limits)) continue
        entry.limits = limits
        entry.account.setLimits(limits, performance.now())
        changed = true
      }
      return changed
    },
    close() {
      accounts.release(clientKey, performance.now())
      accounts.release(diskKey, performance.now())
    },
  }
}
