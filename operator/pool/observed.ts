/** What is seen of a pool, and what can be done for it. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import type { StatusChange } from '../kube/conditions.ts'
import type { EventNote } from '../kube/events.ts'
import type { KubeObject } from '../kube/objects.ts'
import type { JobView } from './job-view.ts'
import type { PodSettings } from './settings.ts'

/** The objects that go with the pool, in the order in which they are made. */
export const PARTS = ['serviceAccount', 'roleBinding', 'service', 'networkPolicy', 'server'] as const
export type Part = (typeof PARTS)[number]

export interface PoolObserved {
  /** The object as the API server has it. */
  readonly pool: DiskPool
  /** The object checked and completed, or what is wrong with it. */
  readonly parsed: DiskPool | InvalidSpecError
  readonly isNamespaceTerminating: boolean
  readonly claim: KubeObject | undefined
  /** What there is under the names of the parts, whoever made it. */
  readonly parts: Readonly<Record<Part, KubeObject | undefined>>
  readonly serverPod: KubeObject | undefined
  readonly disks: DisksView
  readonly spareJob: JobView
  /** When a client's disk was last promised a spare, in ms since 1970, by the API server's clock; undefined: none has one. */
  readonly spareTakenAt: number | undefined
  readonly settings: PodSettings
  /** ms since 1970. */
  readonly now: number
}

export interface DisksView {
  readonly count: number
  /** Of some of them, sorted. */
  readonly names: readonly string[]
  /** Snapshots that the pool keeps. */
  readonly snapshots?: number
  /** Bytes that their specs ask for, and those of the snapshots. */
  readonly provisioned: number
}

/** One step. They are taken in order; the rest is dropped when one fails. */
export type PoolAction =
  | { readonly kind: 'claim'; readonly accepted: string }
  | { readonly kind: 'create claim'; readonly object: KubeObject }
  | { readonly kind: 'grow claim'; readonly name: string; readonly size: number }
  /** `isNew`: it is made only if there is nothing of its name. */
  | { readonly kind: 'apply'; readonly part: Part; readonly object: KubeObject; readonly isNew: boolean }
  | { readonly kind: 'start spares'; readonly job: KubeObject }
  | { readonly kind: 'delete spare job' }
  | { readonly kind: 'status'; readonly change: StatusChange; readonly event?: EventNote }
  | { readonly kind: 'release'; readonly event?: EventNote }

export interface PoolPlan {
  readonly actions: readonly PoolAction[]
  /** Look again after so long, in ms, even if nothing changes. */
  readonly requeueAfterMs?: number
}
