/** All disks that manifests declare, as the catalog asks for them. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { DeclaredDisks } from './catalog.ts'
import { DeclaredDisk, type DeclaredOptions } from './declared-disk.ts'

/** A disk as its manifest has it now. */
export interface Declaration {
  readonly disk: OnDemandDisk
  /** What is wrong with the manifest now; `disk` is then the last good one. */
  readonly problem?: string
}

/** Declared disks that follow their manifests. */
export interface DeclaredDisksControl extends DeclaredDisks {
  /**
   * Takes the new state of all manifests, by export name. The terms hold at once; disks are made and grown in
   * the background. `unreadable`: names whose manifests were never good, and why.
   */
  update(declarations: ReadonlyMap<string, Declaration>, unreadable: ReadonlyMap<string, string>): void
  /** Waits until no disk is being made or grown. */
  settled(): Promise<void>
  close(): Promise<void>
}

/** Makes the control; it knows no disk before the first `update`. */
export function createDeclaredDisks(options: DeclaredOptions): DeclaredDisksControl {
  const disks = new Map<string, DeclaredDisk>()
  let unreadable: ReadonlyMap<string, string> = new Map()
  const leaving = new Set<Promise<void>>()

  function drop(disk: DeclaredDisk): void {
    disks.delete(disk.name)
    const left = disk.close().finally(() => leaving.delete(left))
    leaving.add(left)
  }

  return {
    find: name => disks.get(name)?.served,
    problem: name => disks.get(name)?.problem ?? unreadable.get(name),
    names: () => [...disks.values()].filter(({ problem }) => problem === undefined).map(({ name }) => name),

    update(declarations, nowUnreadable) {
      unreadable = nowUnreadable
      for (const disk of disks.values()) {
        const now = declarations.get(disk.name)
        if (now === undefined || !disk.isOf(now.disk)) drop(disk)
      }
      for (const [name, { disk, problem }] of declarations) {
        const known = disks.get(name) ?? new DeclaredDisk(disk, options)
        disks.set(name, known)
        known.update(disk, problem)
      }
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
