/** Events: what a user sees of an operator by `kubectl describe`. Aggregated, so that none floods the server. */
import { randomBytes } from 'node:crypto'
import type { KubeClient } from './client.ts'
import { hasCode } from './kube-error.ts'
import { type KubeLog, reasonOf } from './log.ts'
import type { KubeObject, Resource } from './objects.ts'

/** What happened to an object. */
export interface EventNote {
  readonly type: 'Normal' | 'Warning'
  /** One word for programs, in CamelCase. */
  readonly reason: string
  /** A sentence for people. */
  readonly message: string
}

export interface EventRecorder {
  /** Notes what happened. Never fails and never waits: an event that cannot be written is logged. */
  record(object: KubeObject, note: EventNote): void
  /** Resolves when all that was noted has been written, or given up. */
  flush(): Promise<void>
}

export interface EventTerms {
  readonly client: KubeClient
  /** Who notes it: `ondemand-disk-operator`. */
  readonly component: string
  /** Which one of several: the name of the Pod. */
  readonly instance?: string
  readonly log?: KubeLog
  readonly now?: () => number
}

interface CoreEvent extends KubeObject {
  readonly count: number
}

const EVENTS: Resource<CoreEvent> = {
  group: '',
  version: 'v1',
  kind: 'Event',
  plural: 'events',
  namespaced: true,
}

/** Longest message of an event, in bytes (the API server's limit). */
const MAX_MESSAGE = 1024
/** Events of one object: so many at once, then one each 5 minutes, as client-go has it. */
const BURST = 25
const REFILL_MS = 300_000
/** The same event within so long is the old one, counted once more, in ms. */
const SAME_MS = 600_000
/** Objects and events that are remembered; the oldest are forgotten first. */
const MAX_REMEMBERED = 4096
/** Events that wait to be written. */
const MAX_WAITING = 1000

interface Known {
  readonly name: string
  readonly namespace: string
  readonly firstAt: string
  count: number
  at: number
}

/** Starts to take notes. */
export function startEventRecorder(terms: EventTerms): EventRecorder {
  const { client, component, instance = component, log, now = Date.now } = terms
  const known = new Map<string, Known>()
  const budgets = new Map<string, { tokens: number; at: number }>()
  let waiting = 0
  let last: Promise<void> = Promise.resolve()

  function mayWrite(uid: string): boolean {
    const time = now()
    const budget = budgets.get(uid) ?? { tokens: BURST, at: time }
    budget.tokens = Math.min(BURST, budget.tokens + (time - budget.at) / REFILL_MS)
    budget.at = time
    remember(budgets, uid, budget)
    if (budget.tokens < 1) return false
    budget.tokens -= 1
    return true
  }

  async function write(object: KubeObject, note: EventNote, time: number): Promise<void> {
    const { metadata } = object
    const { type, reason } = note
    const message = cut(note.message)
    const key = [metadata.uid, metadata.name, type, reason, message].join('\0')
    const lastTimestamp = `${new Date(time).toISOString().slice(0, 19)}Z`
    const old = known.get(key)
    if (old && time - old.at < SAME_MS) {
      old.count++
      old.at = time
      remember(known, key, old)
      try {
        await client.patch(EVENTS, old, 'merge', { count: old.count, lastTimestamp })
        return
      } catch (error) {
        // It has passed away, as events do after an hour.
        if (!hasCode(error, 'NotFound')) throw error
      }
    }
    const event = {
      // Events of what belongs to the whole cluster are kept in this namespace.
      namespace: metadata.namespace ?? 'default',
      // What is cut off may leave a dash or a dot behind, which no label ends with.
      name: `${metadata.name.slice(0, 230).replace(/[-.]+$/, '')}.${randomBytes(8).toString('hex')}`,
      firstAt: lastTimestamp,
      count: 1,
      at: time,
    }
    remember(known, key, event)
    await client.create(EVENTS, {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: event.name, namespace: event.namespace },
      involvedObject: {
        apiVersion: object.apiVersion,
        kind: object.kind,
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resourceVersion: metadata.resourceVersion,
      },
      type,
      reason,
      message,
      count: 1,
      firstTimestamp: lastTimestamp,
      lastTimestamp,
      source: { component },
      reportingComponent: component,
      reportingInstance: instance,
    } as CoreEvent)
  }

  return {
    record(object, note) {
      const fields = { kind: object.kind, name: object.metadata.name, reason: note.reason }
      if (waiting >= MAX_WAITING || !mayWrite(object.metadata.uid ?? object.metadata.name)) {
        log?.debug(fields, 'An event is left out: there are too many')
        return
      }
      waiting++
      const time = now()
      // One after the other: the same event twice at once would be two.
      last = last
        .then(() => write(object, note, time))
        .catch(error => {
          // Whatever happens in a namespace that is going is of no interest any more.
          const level = isOfEndingNamespace(error) ? 'debug' : 'warn'
          log?.[level]({ ...fields, ...reasonOf(error) }, 'An event cannot be written')
        })
        .finally(() => {
          waiting--
        })
    },
    flush: () => last,
  }
}

function isOfEndingNamespace(error: unknown): boolean {
  if (hasCode(error, 'NotFound')) return true
  return hasCode(error, 'Forbidden') && /being terminated/.test(error.message)
}

/** Puts an entry at the end of a map of bounded size. */
function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key)
  map.set(key, value)
  for (const oldest of map.keys()) {
    if (map.size <= MAX_REMEMBERED) break
    map.delete(oldest)
  }
}

/** At most as many bytes as an event may have, without half a character. */
function cut(message: string): string {
  const bytes = Buffer.from(message)
  if (bytes.length <= MAX_MESSAGE) return message
  return `${bytes
    .subarray(0, MAX_MESSAGE - 3)
    .toString()
    .replace(/�+$/, '')}…`
}
