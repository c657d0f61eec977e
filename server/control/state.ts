/** What the server tells of its exports, as JSON. */
import { lstat } from 'node:fs/promises'
import type { DiskReport } from '../exports/declared-disk.ts'
import type { ManifestProblem } from '../exports/manifests.ts'
import type { RefusalReason } from '../metrics/server-metrics.ts'
import type { Activity } from './activity.ts'

/** Where the state comes from. */
export interface StateSources {
  /** Changes with every start: revisions of another start mean nothing. */
  readonly boot: string
  readonly activity: Activity
  /** Of all clients, whatever they asked for. */
  readonly refusals: Readonly<Record<RefusalReason, number>>
  /** Undefined without `--disks`. */
  readonly declared: DeclaredSource | undefined
}

/** What is known of declared disks. */
export interface DeclaredSource {
  report(exportName: string): DiskReport | undefined
  reports(): Iterable<DiskReport>
  problems(): readonly ManifestProblem[]
}

/** One export. Sizes are bytes, times RFC 3339. */
export interface ExportState {
  readonly name: string
  /** Of the object that declares it. */
  readonly uid?: string
  /** Generation of the spec that is served. */
  readonly generation?: number
  /** False: some client has it open, but no manifest declares it. */
  readonly declared: boolean
  /** Why new clients are refused. */
  readonly problem?: string
  /** Its object is being deleted: see `problem`. */
  readonly deleting?: true
  readonly work: DiskReport['work']
  /** The disk has grown; the filesystem on it will be when no client has it open any more. */
  readonly filesystemBehind?: true
  /** Of the file. Absent, as `allocated` is, where there is none: see `missing`. */
  readonly size?: number
  /** What the file takes up. */
  readonly allocated?: number
  /** The disk should be a file, and there is none. */
  readonly missing?: true
  readonly connections: readonly { readonly client: string; readonly since: string }[]
  /** Since the server started, by reason. */
  readonly refusals?: Readonly<Partial<Record<RefusalReason, number>>>
  readonly lastRefusal?: {
    readonly client: string
    readonly reason: RefusalReason
    readonly message: string
    readonly at: string
  }
}

/** The answer to `GET /exports`. */
export interface ServerState {
  readonly boot: string
  readonly revision: number
  /** False: only exports that have changed since the revision that was asked for. */
  readonly full: boolean
  readonly exports: readonly ExportState[]
  /** Names that are neither declared nor open any more; never in a full answer. */
  readonly gone: readonly string[]
  /** What is wrong with manifests. */
  readonly problems: readonly {
    readonly file: string
    readonly line: number
    readonly exportName?: string
    readonly reason: string
  }[]
  readonly refusals: Readonly<Record<RefusalReason, number>>
}

/** Files that are looked at together. */
const CONCURRENCY = 32

/** The state of what has changed after a revision, or of everything. */
export async function serverState(sources: StateSources, after: number | undefined): Promise<ServerState> {
  const { boot, activity, refusals, declared } = sources
  const { revision } = activity
  const changes = after === undefined ? 'all' : activity.since(after)
  const names = changes === 'all' ? namesOf(sources) : changes
  const exports: ExportState[] = []
  const gone: string[] = []
  let batch: Promise<ExportState>[] = []
  for (const name of names) {
    const report = declared?.report(name)
    if (report === undefined && activity.of(name).connections.size === 0) {
      gone.push(name)
      continue
    }
    batch.push(stateOf(name, report, activity))
    if (batch.length < CONCURRENCY) continue
    exports.push(...(await Promise.all(batch)))
    batch = []
  }
  exports.push(...(await Promise.all(batch)))
  const problems = (declared?.problems() ?? []).map(({ file, line, exportName, error }) => ({
    file,
    line,
    ...(exportName !== undefined && { exportName }),
    reason: error.message,
  }))
  return { boot, revision, full: changes === 'all', exports, gone, problems, refusals: { ...refusals } }
}

function namesOf({ activity, declared }: StateSources): ReadonlySet<string> {
  const names = new Set(activity.open())
  for (const { exportName } of declared?.reports() ?? []) names.add(exportName)
  return names
}

async function stateOf(
  name: string,
  report: DiskReport | undefined,
  activity: Activity,
): Promise<ExportState> {
  const { connections, refusals, lastRefusal } = activity.of(name)
  const file = report?.path === undefined ? undefined : await measure(report.path)
  return {
    name,
    ...(report?.uid !== undefined && { uid: report.uid }),
    ...(report?.generation !== undefined && { generation: report.generation }),
    declared: report !== undefined,
    ...(report?.problem !== undefined && { problem: report.problem }),
    ...(report?.deleting && { deleting: true }),
    work: report?.work ?? 'none',
    ...(report?.filesystemBehind && { filesystemBehind: true }),
    ...file,
    connections: [...connections].map(({ client, since }) => ({ client, since: since.toISOString() })),
    ...(Object.keys(refusals).length > 0 && { refusals: { ...refusals } }),
    ...(lastRefusal && { lastRefusal: { ...lastRefusal, at: lastRefusal.at.toISOString() } }),
  }
}

/** A link or a device that a command made has a size of its own, which is not looked for here. */
async function measure(path: string): Promise<Pick<ExportState, 'size' | 'allocated' | 'missing'>> {
  try {
    const stats = await lstat(path)
    return stats.isFile() ? { size: stats.size, allocated: stats.blocks * 512 } : {}
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { missing: true }
    throw error
  }
}
