/** What the agent of a pool sees of a disk, and what it can do for it. */
import type { InvalidSpecError, OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ExportState } from '../../server/control/state.ts'
import type { StatusChange } from '../kube/conditions.ts'
import type { Allotment } from '../terms/allotment.ts'
import type { CopyView } from './copier.ts'
import type { Place } from './volume.ts'

/** A disk, and all that decides about it. */
export interface AgentObserved {
  /** The object as the API server has it. */
  readonly disk: OnDemandDisk
  /** The object checked and completed, or what is wrong with it. */
  readonly parsed: OnDemandDisk | InvalidSpecError
  /** What the pool's quota gives a disk that wants to grow; undefined: all that it wants. */
  readonly allotment?: Allotment | undefined
  /** The disk's file. */
  readonly file: FileView | undefined
  /** The disk's data is among what is kept of deleted disks. */
  readonly isRetained?: boolean | undefined
  /** The spare that the disk was promised is there. */
  readonly spare: boolean
  /** How it goes with the copy that is to be the disk, with `source`. */
  readonly copy: CopyView
  /** What is being made of the disk at this moment, in words: `the DiskSnapshot a`. */
  readonly copiedTo: readonly string[]
  /** ms since 1970. */
  readonly now: number
  /** Text of the manifest that is written for it. */
  readonly manifest: string | undefined
  readonly server: ServerView
  /** Where clients find the server: `nbd://HOST:PORT`. */
  readonly uri: string | undefined
  /** ms since its status was last written; infinite if it never was. */
  readonly sinceWriteMs: number
}

/** Bytes. */
export interface FileView {
  readonly size: number
  readonly allocated: number
}

/** The server, as far as a disk is concerned. */
export type ServerView =
  | { readonly state: 'unknown' }
  | {
      readonly state: 'known'
      /** Undefined: the server does not have it. */
      readonly served: ExportState | undefined
      /** What is wrong with its manifest. */
      readonly manifestProblem?: string | undefined
    }

/** One step. They are taken in order; the rest is dropped when one fails. */
export type AgentAction =
  /** The spare becomes the disk's file, unless there is one. */
  | { readonly kind: 'take spare'; readonly spare: string }
  /** The disk is made as a copy of the object with this uid. */
  | { readonly kind: 'start copy'; readonly from: { readonly place: Place; readonly uid: string } }
  | { readonly kind: 'call off copy' }
  | { readonly kind: 'write manifest'; readonly text: string }
  /** Clients are disconnected. */
  | { readonly kind: 'remove manifest' }
  | { readonly kind: 'remove file' }
  /** The file is kept where no disk is served from. */
  | { readonly kind: 'retain file' }
  | { readonly kind: 'status'; readonly change: StatusChange }

export interface AgentPlan {
  readonly actions: readonly AgentAction[]
  /** Look again after so long, in ms, even if nothing changes. */
  readonly requeueAfterMs?: number
}
