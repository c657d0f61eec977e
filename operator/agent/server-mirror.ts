/** What the server beside the agent says of its exports, kept up to date over its control socket. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { CopyAnswer } from '../../server/control/copies.ts'
import type { ExportState, ServerState } from '../../server/control/state.ts'
import { askJson } from '../../server/control/unix-http.ts'
import { type KubeLog, reasonOf } from '../kube/log.ts'
import { manifestName } from './manifest-directory.ts'
import type { ServerView } from './observed.ts'

export interface ServerMirror {
  /** What is known of a disk. */
  view(uid: string): ServerView
  /** Connections to all exports; undefined while the server is away. */
  readonly connections: number | undefined
  /** Has these manifests read at once; resolves when they were, or at once when the server is away and will read them anyway. */
  rescan(manifests: readonly string[]): Promise<void>
  /** Has the server copy a disk into a new file. @throws RequestError in the server's words, SocketError while it is away */
  copy(uid: string, to: string, signal: AbortSignal): Promise<CopyAnswer>
  stop(): Promise<void>
}

export interface MirrorTerms {
  /** Of the control socket. */
  readonly path: string
  /** Told of each disk about which something is otherwise. */
  readonly onChange: (uid: string) => void
  readonly log: KubeLog
}

/** How long the server may hold an answer back for want of news, in s. */
const WAIT_S = 30
const ANSWER_MS = (WAIT_S + 15) * 1000
/** News is asked for this often at most, in ms, however fast it comes. */
const PAUSE_MS = 100
const RETRY_MS = 250
const RESCAN_MS = 30_000
/** The largest disks on the slowest volumes; the server ends it sooner when this agent ends. */
const COPY_MS = 24 * 3600 * 1000

/** Follows the server at its control socket until it is stopped. */
export function startMirror({ path, onChange, log }: MirrorTerms): ServerMirror {
  const stopped = new AbortController()
  const { signal } = stopped
  const byName = new Map<string, ExportState>()
  const byUid = new Map<string, ExportState>()
  let problems = new Map<string, string>()
  let isKnown = false
  let wasAway = false

  function forget(name: string, changed: Set<string>): void {
    const old = byName.get(name)
    byName.delete(name)
    if (old?.uid === undefined) return
    if (byUid.get(old.uid) === old) byUid.delete(old.uid)
    changed.add(old.uid)
  }

  function take(state: ServerState): void {
    const changed = new Set<string>()
    const names = new Set(state.exports.map(({ name }) => name))
    for (const name of state.full ? [...byName.keys()] : []) if (!names.has(name)) forget(name, changed)
    for (const name of state.gone) forget(name, changed)
    for (const entry of state.exports) {
      forget(entry.name, changed)
      byName.set(entry.name, entry)
      if (entry.uid === undefined) continue
      byUid.set(entry.uid, entry)
      changed.add(entry.uid)
    }
    const next = new Map(state.problems.map(({ file, reason }) => [file.replace(/\.json$/, ''), reason]))
    for (const uid of new Set([...problems.keys(), ...next.keys()])) {
      if (problems.get(uid) !== next.get(uid)) changed.add(uid)
    }
    problems = next
    isKnown = true
    for (const uid of changed) onChange(uid)
  }

  async function run(): Promise<void> {
    let last: Pick<ServerState, 'boot' | 'revision'> | undefined
    while (!signal.aborted) {
      try {
        const query = last === undefined ? '' : `?boot=${last.boot}&after=${last.revision}&wait=${WAIT_S}`
        const state = (await askJson(path, {
          ...{ method: 'GET', path: `/exports${query}`, signal, timeoutMs: ANSWER_MS },
        })) as ServerState
        if (wasAway) log.info({ path }, 'The server is back')
        wasAway = false
        last = state
        take(state)
        await sleep(PAUSE_MS, undefined, { signal })
      } catch (error) {
        if (signal.aborted) return
        if (!wasAway) log.warn({ path, ...reasonOf(error) }, 'The server does not answer')
        wasAway = true
        isKnown = false
        await sleep(RETRY_MS, undefined, { signal }).catch(() => {})
      }
    }
  }

  /** Names that wait for the rescan after the one that is under way. */
  let pending: { names: Set<string>; done: Promise<void> } | undefined
  let scanning: Promise<void> = Promise.resolve()

  async function scan(names: ReadonlySet<string>): Promise<void> {
    try {
      await askJson(path, {
        method: 'POST',
        path: '/rescan',
        body: { manifests: [...names].slice(0, MAX_RESCANNED) },
        signal,
        timeoutMs: RESCAN_MS,
      })
    } catch (error) {
      // It reads them all when it starts, and follows the directory by itself.
      if (!signal.aborted) log.debug({ path, ...reasonOf(error) }, 'The server was not told of new manifests')
    }
  }

  const running = run()
  return {
    view(uid) {
      if (!isKnown) return { state: 'unknown' }
      return { state: 'known', served: byUid.get(uid), manifestProblem: problems.get(uid) }
    },

    get connections() {
      if (!isKnown) return undefined
      let count = 0
      for (const { connections } of byName.values()) count += connections.length
      return count
    },

    rescan(manifests) {
      if (pending === undefined) {
        const names = new Set<string>()
        const done = scanning.then(() => {
          pending = undefined
          scanning = scan(names)
          return scanning
        })
        pending = { names, done }
      }
      for (const uid of manifests) pending.names.add(manifestName(uid))
      return pending.done
    },

    async copy(uid, to, askedSignal) {
      const question = { method: 'POST', path: '/copies', body: { uid, to }, timeoutMs: COPY_MS } as const
      const both = AbortSignal.any([signal, askedSignal])
      return (await askJson(path, { ...question, signal: both })) as CopyAnswer
    },

    async stop() {
      stopped.abort(new Error('Stopped.'))
      await running
      await scanning
    },
  }
}

/** More are found by the server itself, within half a second. */
const MAX_RESCANNED = 1000
