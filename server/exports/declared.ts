/** All disks that manifests declare, as the catalog asks for them. */
import { Slots } from '../backends/disks/slots.ts'
import type { DeclaredDisks } from './catalog.ts'
import { DeclaredDisk, type DeclaredOptions } from './declared-disk.ts'
import type { ManifestState } from './manifest-set.ts'

/** Declared disks that follow their manifests. */
export interface DeclaredDisksControl extends DeclaredDisks {
  /** Takes the new state of all manifests. The terms hold at once; disks are made and grown in the background. */
  update(state: ManifestState): void
  /** Waits until all disks can be opened, though some may have to be made first. */
  ready(): Promise<void>
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
    const left = disk.close().finally(() => leaving.delete(left))
    leaving.add(left)
  }

  return {
    find: name => disks.get(name)?.served,
    problem: name => disks.get(name)?.problem ?? refused.get(name)?.message,
    owns: fileName => options.files.isOwned(fileName),
    names: () => [...disks.values()].filter(({ problem }) => problem === undefined).map(({ name }) => name),

    update(state) {
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

    async ready() {
      await Promise.all([...disks.values()].map(disk => disk.ready()))
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
