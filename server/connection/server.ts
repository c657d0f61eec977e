/** All sessions of one server: who gets in, who has to leave, and the orderly end. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type AccessRules, admissionRefusal } from '../../crds/access-rules.ts'
import { needsCertificate } from '../exports/catalog.ts'
import type { DescriptorHandle } from './handle.ts'
import { type Endpoint, type Listener, listen } from './listener.ts'
import type { Client } from './peer.ts'
import { AccessRevoked } from './refusals.ts'
import { reasonOf, Session, type SessionTerms } from './session.ts'

/** What a server is made of. Rules and limits are looked at anew with each client, so that they may change. */
export interface ServerTerms extends SessionTerms {
  readonly access: AccessRules
  readonly maxConnections: number
  readonly maxConnectionsPerClient: number
}

/** A server that listens. */
export interface NbdServer {
  /** Where clients find it. */
  readonly uris: readonly string[]
  /** Connections now. */
  readonly connections: number
  /**
   * Ends the connections of all clients who may not have their disk any more, and holds the others to the
   * limits that there are now. To be called when the catalog has changed.
   */
  enforceAccess(): void
  /**
   * Takes no more clients, lets what is under way finish, refuses the rest with ESHUTDOWN, syncs all
   * disks and ends all connections. Takes at most STOP_LIMIT_MS. Returns the disks whose last writes may not be durable.
   */
  stop(): Promise<readonly string[]>
}

/** How long idle clients stay after the stop began, so that their next request learns of it, in ms. */
const STOP_GRACE_MS = 500
/** How long connections that still work may go on, and when they are cut, in ms after the stop began: between, disks are synced. */
const [BUSY_LIMIT_MS, STOP_LIMIT_MS] = [7000, 8000]
const POLL_MS = 5
/** How often clients that are not being read are looked at, in ms. */
const LOOK_MS = 5000

/**
 * Listens on all endpoints. An endpoint that is `optional` may fail.
 * @throws ListenError, with none of the others left open
 */
export async function startServer(
  terms: ServerTerms,
  endpoints: readonly (Endpoint & { optional?: boolean })[],
): Promise<NbdServer> {
  const { log, access, metrics } = terms
  const sessions = new Set<Session>()
  const perClient = new Map<string, number>()

  /** Whom only a certificate can admit is let in to show it; the catalog has the last word. */
  const accessRefusal = (client: Client): string | undefined => {
    if (terms.tls !== undefined && needsCertificate(access, client.peer)) return undefined
    return admissionRefusal(access, client.peer)
  }

  const limitRefusal = (client: Client): string | undefined => {
    if (sessions.size >= terms.maxConnections)
      return `There are ${terms.maxConnections} connections already (--max-connections).`
    const own = perClient.get(client.identity) ?? 0
    if (own < terms.maxConnectionsPerClient) return undefined
    return `The client has ${own} connections already (--max-connections-per-client).`
  }

  const leave = (session: Session): void => {
    sessions.delete(session)
    metrics.connections--
    const { identity } = session.client
    const left = (perClient.get(identity) ?? 1) - 1
    if (left === 0) perClient.delete(identity)
    else perClient.set(identity, left)
  }

  const accept = (handle: DescriptorHandle, client: Client): void => {
    const rule = accessRefusal(client)
    const reason = rule ?? limitRefusal(client)
    if (reason !== undefined) {
      handle.close()
      metrics.refusals[rule === undefined ? 'limit' : 'access']++
      log.warn({ client: client.shown, reason }, 'Client refused')
      return
    }
    const session: Session = new Session(handle, client, terms, () => leave(session))
    sessions.add(session)
    metrics.accepted++
    metrics.connections++
    perClient.set(client.identity, (perClient.get(client.identity) ?? 0) + 1)
    session.start()
  }

  const listeners = await listenOnAll(endpoints, accept, log)
  const looking = setInterval(() => {
    for (const session of sessions) session.look()
  }, LOOK_MS).unref()

  return {
    uris: listeners.map(listener => listener.uri),

    get connections() {
      return sessions.size
    },

    enforceAccess() {
      for (const session of sessions) {
        const reason = session.revocation()
        if (reason === undefined) {
          session.followLimits()
          continue
        }
        metrics.refusals.revoked++
        const { exportName = '', client } = session
        terms.activity.refused(exportName, { client: client.shown, reason: 'revoked', message: reason })
        log.warn({ client: client.shown, export: exportName, reason }, 'Client disconnected')
        session.cut(new AccessRevoked(reason))
      }
    },

    async stop() {
      clearInterval(looking)
      const startedAt = performance.now()
      const elapsed = () => performance.now() - startedAt
      for (const session of sessions) session.stop()
      const closed = Promise.all(listeners.map(listener => listener.close()))
      while (sessions.size > 0 && elapsed() < STOP_GRACE_MS) await sleep(POLL_MS)
      while ([...sessions].some(session => session.isBusy) && elapsed() < BUSY_LIMIT_MS) await sleep(POLL_MS)
      const unsynced = await syncAll([...sessions], STOP_LIMIT_MS - elapsed(), log)
      for (const session of sessions) session.end()
      while (sessions.size > 0 && elapsed() < STOP_LIMIT_MS) await sleep(POLL_MS)
      for (const session of sessions) session.cut()
      await closed
      return unsynced
    },
  }
}

/** A disk took longer to sync than a server that stops can wait. */
class SyncTimeout extends Error {
  override readonly name = 'SyncTimeout'
  readonly code = 'ETIMEDOUT'
  override readonly message = 'The disk did not end its flush in time.'
}

/** Syncs the disks of sessions for so many ms at most: one of an upstream that is away would keep the server for ever. */
async function syncAll(
  sessions: readonly Session[],
  limitMs: number,
  log: ServerTerms['log'],
): Promise<readonly string[]> {
  let limit: NodeJS.Timeout | undefined
  const tooLate = new Promise<never>((_, reject) => {
    limit = setTimeout(() => reject(new SyncTimeout()), Math.max(0, limitMs))
  })
  const unsynced = new Set<string>()
  const syncOf = async (session: Session) => {
    const { exportName = '', client } = session
    try {
      await Promise.race([session.sync(), tooLate])
    } catch (error) {
      unsynced.add(exportName)
      log.error(
        { client: client.shown, export: exportName, ...reasonOf(error) },
        'A disk could not be synced',
      )
    }
  }
  await Promise.all(sessions.map(syncOf))
  clearTimeout(limit)
  return [...unsynced]
}

async function listenOnAll(
  endpoints: readonly (Endpoint & { optional?: boolean })[],
  accept: (handle: DescriptorHandle, client: Client) => void,
  log: ServerTerms['log'],
): Promise<Listener[]> {
  const listeners: Listener[] = []
  for (const endpoint of endpoints) {
    try {
      listeners.push(
        await listen(endpoint, accept, error => log.error({ reason: error.message }, 'Listening failed')),
      )
    } catch (error) {
      const code = (error as { code?: string }).code
      if (endpoint.optional && (code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT')) continue
      await Promise.all(listeners.map(listener => listener.close()))
      throw error
    }
  }
  return listeners
}
