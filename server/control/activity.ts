/**
 * What happens to each export, for whoever watches the server: who has it open, who was refused, and in which
 * revision it last changed. A watcher that knows a revision asks for what has changed since.
 */
import type { RefusalReason } from '../metrics/server-metrics.ts'

/** A connection that has an export open. */
export interface ActiveConnection {
  /** With its port, as in the log. */
  readonly client: string
  readonly since: Date
}

/** What is known of one export. */
export interface ExportActivity {
  readonly connections: ReadonlySet<ActiveConnection>
  /** Since the server started. */
  readonly refusals: Readonly<Partial<Record<RefusalReason, number>>>
  readonly lastRefusal: LastRefusal | undefined
}

/** The latest client that did not get an export. */
export interface LastRefusal {
  readonly client: string
  readonly reason: RefusalReason
  readonly message: string
  readonly at: Date
}

/** Exports that changed after a revision; `all`: it is too long ago to tell, so any may have. */
export type Changes = ReadonlySet<string> | 'all'

interface Entry {
  revision: number
  readonly connections: Set<ActiveConnection>
  readonly refusals: Partial<Record<RefusalReason, number>>
  lastRefusal: LastRefusal | undefined
}

/** Names without a connection that are remembered; older ones are forgotten. */
const MAX_IDLE = 20_000
const MAX_MESSAGE = 512

const NOTHING: ExportActivity = { connections: new Set(), refusals: {}, lastRefusal: undefined }

export class Activity {
  /** In the order of their revisions. */
  readonly #entries = new Map<string, Entry>()
  readonly #waiting = new Set<() => void>()
  readonly #maxIdle: number
  #revision = 1
  /** Of what changed up to here some is forgotten. */
  #forgotten = 0

  constructor({ maxIdle = MAX_IDLE }: { readonly maxIdle?: number } = {}) {
    this.#maxIdle = maxIdle
  }

  /** Grows with every change. */
  get revision(): number {
    return this.#revision
  }

  of(name: string): ExportActivity {
    return this.#entries.get(name) ?? NOTHING
  }

  /** Names that somebody has open. */
  *open(): Generator<string> {
    for (const [name, { connections }] of this.#entries) if (connections.size > 0) yield name
  }

  /** Something about this export is otherwise now. From the first such call on its refusals are counted. */
  changed(name: string): void {
    this.#bump(name)
  }

  /** A client has opened it; the function that is returned says that it has left, once. */
  opened(name: string, client: string): () => void {
    const connection = { client, since: new Date() }
    this.#bump(name).connections.add(connection)
    return () => {
      if (this.#bump(name).connections.delete(connection)) this.#forgetOldest()
    }
  }

  /** A client was refused. Names that nothing else is known of are not counted, since any client can make them up. */
  refused(name: string, refusal: Omit<LastRefusal, 'at'>): void {
    if (!this.#entries.has(name)) return
    const entry = this.#bump(name)
    const { reason } = refusal
    entry.refusals[reason] = (entry.refusals[reason] ?? 0) + 1
    entry.lastRefusal = { ...refusal, message: refusal.message.slice(0, MAX_MESSAGE), at: new Date() }
  }

  since(revision: number): Changes {
    if (revision < this.#forgotten || revision > this.#revision) return 'all'
    const names = new Set<string>()
    for (const [name, entry] of this.#entries) if (entry.revision > revision) names.add(name)
    return names
  }

  /** Waits until there is a change after this revision, or the signal is aborted. */
  async after(revision: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted || revision !== this.#revision) return
    await new Promise<void>(resolve => {
      const wake = () => {
        this.#waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake)
    })
  }

  #bump(name: string): Entry {
    const entry: Entry = this.#entries.get(name) ?? {
      revision: 0,
      connections: new Set(),
      refusals: {},
      lastRefusal: undefined,
    }
    entry.revision = ++this.#revision
    this.#entries.delete(name)
    this.#entries.set(name, entry)
    if (this.#entries.size > this.#maxIdle) this.#forgetOldest()
    for (const wake of this.#waiting) wake()
    return entry
  }

  #forgetOldest(): void {
    for (const [name, { connections, revision }] of this.#entries) {
      if (this.#entries.size <= this.#maxIdle) return
      if (connections.size > 0) continue
      this.#entries.delete(name)
      this.#forgotten = revision
    }
  }
}
