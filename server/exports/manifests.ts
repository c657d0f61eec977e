/** A directory of manifests: read, and followed while it changes. */
import type { NameRules } from '../../crds/export-name.ts'
import { codeOf, toError } from '../linux/errno.ts'
import { directoryReason } from '../linux/reasons.ts'
import { createManifestReader } from './manifest-directory.ts'
import { directoryEvents } from './manifest-events.ts'
import { EMPTY_SET, isSameState, type ManifestState, MISSING_GRACE, nextSet } from './manifest-set.ts'

export type { ManifestDisk, ManifestProblem, ManifestState } from './manifest-set.ts'

/** A directory of manifests that cannot be read or followed; the message names it. */
export class ManifestsError extends Error {
  override readonly name = 'ManifestsError'
  readonly code = 'ManifestsUnreadable'
}

export interface ManifestsOptions {
  /** Which export names are allowed. Default: `strict`. */
  readonly names?: NameRules
  /** Takes each new state: the first before `watchManifests` resolves, further ones when something has changed. */
  onChange(state: ManifestState): void
  /** Takes what is wrong with the directory as a whole, once each time it goes wrong. The last state stays. */
  onError(error: ManifestsError): void
  /** Milliseconds after which the directory is looked through without an event. Default: 3000. */
  readonly rescanInterval?: number
}

/** A directory that is being followed. */
export interface Manifests {
  readonly state: ManifestState
  /**
   * Reads the files of these names now, or all; what they say has reached `onChange` when this resolves.
   * @throws ManifestsError
   */
  rescan(names?: readonly string[]): Promise<void>
  /** Ends it; nothing is called any more once this resolves. */
  close(): Promise<void>
}

/** Milliseconds without a further event after which a change is read. */
const QUIET = 50
/** Milliseconds after which a change is read though events keep coming. */
const MAX_DELAY = 200
const RESCAN_INTERVAL = 3000
/** Milliseconds after which a directory that could not be read is tried again. */
const RETRY_INTERVAL = 500
/** Rescans without an event take at most this part of the time. */
const MAX_RESCAN_SHARE = 1 / 20
/** More names than this are not remembered: all files are looked at. */
const MAX_PENDING = 1000

/**
 * Reads the manifests of a directory, regular files or symlinks to them named `*.yaml`, `*.yml` or `*.json`,
 * and follows their changes: by inotify within half a second, and by looking again every few seconds where
 * the file system sends no events.
 * @throws ManifestsError if the directory cannot be read now
 */
export async function watchManifests(directory: string, options: ManifestsOptions): Promise<Manifests> {
  const { names = 'strict', rescanInterval = RESCAN_INTERVAL, onChange, onError } = options
  const reader = createManifestReader(directory, { names })
  const events = directoryEvents(directory, onEvent, error => report('events', error))
  let set = EMPTY_SET
  /** Names of files that events were about; `all`: any may have changed. */
  let pending: Set<string> | 'all' = 'all'
  let firstEvent: number | undefined
  let lastEvent = 0
  let fullScanAt = 0
  let timer: NodeJS.Timeout | undefined
  let scanning: Promise<void> | undefined
  const reported = new Map<string, string>()
  /** Why the last scan failed, if it did. */
  let failure: ManifestsError | undefined
  let closed = false

  function onEvent(name: string | undefined): void {
    // The files of a ConfigMap change by its hidden link `..data` alone; what else is hidden is on its way to a name.
    if (name?.startsWith('.') && !name.startsWith('..')) return
    lastEvent = performance.now()
    firstEvent ??= lastEvent
    if (pending !== 'all') {
      if (name === undefined || name.startsWith('..') || pending.size >= MAX_PENDING) pending = 'all'
      else pending.add(name)
    }
    schedule()
  }

  function schedule(): void {
    clearTimeout(timer)
    if (closed || scanning) return
    const changeAt = firstEvent === undefined ? Infinity : Math.min(lastEvent + QUIET, firstEvent + MAX_DELAY)
    const goneAt = Math.min(...set.missing.values()) + MISSING_GRACE
    const delay = Math.min(changeAt, goneAt, fullScanAt) - performance.now()
    timer = setTimeout(rescan, Math.max(delay, 0))
    timer.unref()
  }

  function rescan(): void {
    clearTimeout(timer)
    scanning = scan()
      .then(
        () => {
          failure = undefined
          reported.delete('scan')
        },
        error => {
          failure = failed(error)
          pending = 'all'
          fullScanAt = performance.now() + Math.min(RETRY_INTERVAL, rescanInterval)
          if (!closed) report('scan', error)
        },
      )
      .then(() => {
        scanning = undefined
        schedule()
      })
  }

  async function scan(): Promise<void> {
    const start = performance.now()
    const isFull = pending === 'all' || firstEvent === undefined || start >= fullScanAt
    const changed = pending === 'all' || isFull ? undefined : pending
    pending = new Set()
    firstEvent = undefined
    // A client may be waiting for the few files that have changed.
    const renewal = events.renew()
    const early = changed && reader.read(changed)
    await Promise.allSettled([renewal, early])
    const files = (await renewal) || early === undefined ? await reader.read() : await early
    if (closed) return
    const now = performance.now()
    if (isFull) fullScanAt = now + Math.max(rescanInterval, (now - start) / MAX_RESCAN_SHARE)
    const next = nextSet(set, files, now)
    const isNews = set === EMPTY_SET || !isSameState(set, next)
    set = next
    if (isNews) onChange(set)
  }

  function report(kind: string, error: unknown): void {
    const problem = failed(error)
    if (reported.get(kind) === problem.message) return
    reported.set(kind, problem.message)
    onError(problem)
  }

  function failed(error: unknown): ManifestsError {
    const reason = directoryReason(codeOf(error) ?? '', 'read it', toError(error).message)
    return new ManifestsError(`--disks: ${directory} cannot be followed: ${reason}`, { cause: error })
  }

  const first = scan()
  scanning = first
  try {
    await first
  } catch (error) {
    closed = true
    events.close()
    throw failed(error)
  }
  scanning = undefined
  schedule()
  return {
    get state() {
      return set
    },
    async rescan(names) {
      for (const name of names ?? []) if (pending !== 'all') pending.add(name)
      if (names === undefined) pending = 'all'
      firstEvent ??= performance.now()
      // A scan that is under way may have passed these files already.
      await scanning
      if (closed) return
      if (scanning === undefined) rescan()
      await scanning
      if (failure !== undefined) throw failure
    },
    async close() {
      closed = true
      clearTimeout(timer)
      events.close()
      await scanning
    },
  }
}
