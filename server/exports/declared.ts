/** All disks that manifests declare, as the catalog asks for them. */
import { Slots } from '../backends/disks/slots.ts'
import type { PointCopy } from '../backends/file/point-copy.ts'
import type { DeclaredDisks } from './catalog.ts'
import { DeclaredDisk, type DeclaredOptions, type DiskReport } from './declared-disk.ts'
import { ExportRefusal } from './export.ts'
import type { ManifestState } from './manifest-set.ts'

/** Declared disks that follow their manifests. */
export interface DeclaredDisksControl extends DeclaredDisks {
  /** Takes the new state of all manifests. The terms hold at once; disks are made and grown in the background. */
  update(state: ManifestState): void
  /** Waits until this disk, or each of all, can be opened, though it may have to be made first. */
  ready(exportName?: string): Promise<void>
  /** A disk that is declared, or whose manifest is wrong. */
  report(exportName: string): DiskReport | undefined
  /** All of these, in no order. */
  reports(): Iterable<DiskReport>
  /** Copies the disk of the object with this uid; see DeclaredDisk.copy. @throws ExportRefusal, if there is none, too */
  copy(uid: string, to: number, signal: AbortSignal): Promise<PointCopy>
  /** Waits until no disk is being made or grown. */
  settled(): Promise<void>
  close(): Promise<void>
}

/** Disks that are grown at once; a filesystem that grows is checked, which reads much of it. */
const MAX_GROWING = 4

/** Makes the control; it knows no disk before the first `update`. */
export function createDeclaredDisks(options: DeclaredOptions): DeclaredDisksControl {
  const disks = new Map<string, DeclaredDisk>()
  const growing = new Slots(MAX_GROWING)
  let refused: ManifestState['refused'] = new Map()
  const leaving = new Set<Promise<void>>()

  function drop(disk: DeclaredDisk): void {
    disks.delete(disk.name)
    options.changed?.(disk.name)
    const left = disk.close().finally(() => leaving.delete(left))
    leaving.add(left)
  }

  function report(name: string): DiskReport | undefined {
    const disk = disks.get(name)?.report
    const problem = refused.get(name)?.message
    if (disk !== undefined || problem === undefined) return disk
    const unknown = { uid: undefined, generation: undefined, path: undefined }
    return { exportName: name, ...unknown, problem, deleting: false, work: 'none', filesystemBehind: false }
  }

  return {
    find: name => disks.get(name)?.served,
    problem: name => disks.get(name)?.problem ?? refused.get(name)?.message,
    prepared: name => disks.get(name)?.prepared,
    owns: fileName => options.files.isOwned(fileName),
    names: () => [...disks.values()].filter(({ problem }) => problem === undefined).map(({ name }) => name),

    report,

    *reports() {
      for (const name of new Set([...disks.keys(), ...refused.keys()])) {
        const told = report(name)
        if (told !== undefined) yield told
      }
    },

    update(state) {
      for (const [name, { message }] of state.refused) {
        if (refused.get(name)?.message !== message) options.changed?.(name)
      }
      for (const name of refused.keys()) if (!state.refused.has(name)) options.changed?.(name)
      refused = state.refused
      for (const disk of disks.values()) {
        const now = state.disks.get(disk.name)
        if (now === undefined || !disk.isOf(now.disk)) drop(disk)
      }
      for (const [name, { disk, invalid }] of state.disks) {
        const known = disks.get(name) ?? new DeclaredDisk(disk, options, growing)
        disks.set(name, known)
        known.update(disk, invalid?.message)
      }
    },

    async ready(exportName) {
      if (exportName !== undefined) return await disks.get(exportName)?.ready()
      await Promise.all([...disks.values()].map(disk => disk.ready()))
    },

    async copy(uid, to, signal) {
      for (const disk of disks.values()) if (disk.report.uid === uid) return await disk.copy(to, signal)
      throw new ExportRefusal('unknown', `No manifest declares a disk with the uid ${uid}.`)
    },

    async settled() {
      await Promise.all([...disks.values()].map(disk => disk.settled()))
    },

    async close() {
      for (const disk of disks.values()) drop(disk)
      await Promise.all(leaving)
    },
  }
}
