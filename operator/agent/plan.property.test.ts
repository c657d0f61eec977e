/**
 * The plan against a world in which everything happens at any time: the agent crashes between two steps, the server is
 * away or late, clients come and go, the spec changes, the disk is deleted. Whatever the order, nothing is lost, and
 * once the world comes to rest all is as it should be.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type OnDemandDisk, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ExportState } from '../../server/control/state.ts'
import { mergeConditions, type StatusCondition } from '../kube/conditions.ts'
import { FINALIZER, FORCE_DELETE_ANNOTATION, SPARE_ANNOTATION } from '../terms/names.ts'
import type { AgentAction, AgentObserved, ServerView } from './observed.ts'
import { planDisk, SPARE_QUIET_MS } from './plan.ts'

const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'
const SIZE = 2 ** 20

const EVENTS = [
  ...['agent', 'agent', 'agent', 'half', 'server', 'server', 'news', 'news', 'connect', 'disconnect'],
  ...['grow', 'delete', 'force', 'operator', 'operator', 'server dies', 'server starts', 'time'],
] as const
type Event = (typeof EVENTS)[number]

/** One disk and all around it. */
class World {
  // The API.
  spec = { size: SIZE }
  generation = 1
  deleted = false
  forced = false
  /** ms since the object was made. */
  now = 0
  exists = true
  conditions: readonly StatusCondition[] = []
  fields: Record<string, unknown> = {}
  // The volume.
  file: number | undefined
  spare = true
  // The server: the manifest that it has read, and its clients.
  manifest: string | undefined
  read: string | undefined
  runs = true
  clients = 0
  /** What the agent has heard of the server. */
  heard: ServerView = { state: 'unknown' }
  /** Clients lost their disk, or data went, against the rules. */
  readonly wrongs: string[] = []

  get disk(): OnDemandDisk {
    return {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: {
        ...{ name: 'alice', namespace: 'ns', uid: UID, generation: this.generation, finalizers: [FINALIZER] },
        annotations: {
          [SPARE_ANNOTATION]: '0123456789abcdef-0',
          ...(this.forced && { [FORCE_DELETE_ANNOTATION]: 'true' }),
        },
        creationTimestamp: '1970-01-01T00:00:00Z',
        ...(this.deleted && { deletionTimestamp: '2026-01-01T00:00:00Z' }),
      },
      spec: { poolName: 'lab', reclaimPolicy: 'Delete', mode: 'Persistent', ...this.spec },
      ...(this.conditions.length > 0 && { status: { ...this.fields, conditions: this.conditions } }),
    } as unknown as OnDemandDisk
  }

  is(type: string, reason?: string): boolean {
    const found = this.conditions.find(each => each.type === type)
    return reason === undefined ? found?.status === 'True' : found?.reason === reason
  }

  observe(): AgentObserved {
    const { disk } = this
    return {
      disk,
      parsed: parseOnDemandDisk(disk),
      file: this.file === undefined ? undefined : { size: this.file, allocated: 0 },
      spare: this.spare && !this.is('Provisioned'),
      manifest: this.manifest,
      server: this.heard,
      uri: 'nbd://lab',
      ...{ copy: { state: 'none' } as const, copiedTo: [], now: this.now },
      sinceWriteMs: Number.POSITIVE_INFINITY,
    }
  }

  take(action: AgentAction): void {
    switch (action.kind) {
      case 'take spare':
        if (this.is('Provisioned')) this.wrongs.push('a spare in place of a disk that was made')
        if (this.spare && this.file === undefined) this.file = SIZE
        this.spare = false
        return
      case 'write manifest':
        if (!this.is('Provisioned') && this.file === undefined) this.wrongs.push('served before it was made')
        this.manifest = action.text
        return
      case 'remove manifest':
        if (this.clients > 0 && !this.forced) this.wrongs.push('a client was cut off')
        this.manifest = undefined
        return
      case 'remove file':
      case 'retain file':
        if (!this.deleted || !this.is('Ready', 'Deleting')) this.wrongs.push('data went without leave')
        if (this.clients > 0 && !this.forced) this.wrongs.push('data went under a client')
        this.file = undefined
        return
      case 'status':
        if (
          action.change.conditions?.some(({ reason }) => reason === 'SpareTaken') &&
          this.file === undefined
        )
          this.wrongs.push('told of a disk that there is not')
        this.conditions = mergeConditions(this.conditions, action.change.conditions ?? [], new Date(0))
        this.fields = { ...this.fields, ...action.change.fields }
    }
  }

  /** The first steps of the plan; the agent may die after any. */
  agent(limit = Number.POSITIVE_INFINITY): number {
    if (!this.exists) return 0
    const { actions } = planDisk(this.observe())
    for (const action of actions.slice(0, limit)) this.take(action)
    return actions.length
  }

  get manifestObject(): OnDemandDisk | undefined {
    return this.read === undefined ? undefined : JSON.parse(this.read)
  }

  happen(event: Event): void {
    switch (event) {
      case 'agent':
        return void this.agent()
      case 'half':
        return void this.agent(1)
      case 'server':
        if (!this.runs) return
        this.read = this.manifest
        if (this.read === undefined) this.clients = 0
        if (this.file !== undefined && this.manifestObject !== undefined) {
          this.file = Math.max(this.file, Number(this.manifestObject.spec.size))
        }
        return
      case 'news': {
        if (!this.runs) {
          this.heard = { state: 'unknown' }
          return
        }
        const object = this.manifestObject
        const served: ExportState | undefined = object && {
          ...{ name: 'alice', uid: UID, declared: true, work: 'none' },
          generation: object.metadata.generation as number,
          ...(object.metadata.deletionTimestamp !== undefined && { deleting: true, problem: 'deleting' }),
          connections: Array.from({ length: this.clients }, () => ({ client: '10.0.0.1:1', since: 'now' })),
        }
        this.heard = { state: 'known', served }
        return
      }
      case 'connect': {
        const isOpen = this.runs && this.read !== undefined && this.file !== undefined
        if (isOpen && this.manifestObject?.metadata.deletionTimestamp === undefined) this.clients++
        return
      }
      case 'disconnect':
        this.clients = Math.max(0, this.clients - 1)
        return
      case 'grow':
        if (!this.deleted && this.generation < 4) {
          this.spec = { size: this.spec.size + SIZE }
          this.generation++
        }
        return
      case 'delete':
        this.deleted = true
        return
      case 'force':
        this.forced = true
        return
      case 'operator': {
        if (!this.deleted) return
        if (this.is('Exported', 'Removed')) this.exists = false
        else
          this.take({
            kind: 'status',
            change: { conditions: [{ type: 'Ready', status: 'False', reason: 'Deleting', message: '' }] },
          })
        return
      }
      case 'time':
        this.now += SPARE_QUIET_MS
        return
      case 'server dies':
        this.runs = false
        this.clients = 0
        return
      case 'server starts':
        if (this.runs) return
        this.runs = true
        this.read = this.manifest
    }
  }

  /** The world goes on without surprises until nothing more is done. */
  settle(): void {
    this.happen('server starts')
    this.clients = 0
    for (let round = 0; round < 20; round++) {
      for (const event of ['server', 'news', 'operator', 'agent'] as const) this.happen(event)
    }
  }
}

test('Nothing is lost whatever happens, and in the end all is as it should be', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...EVENTS), { maxLength: 60, size: 'max' }), events => {
      const world = new World()
      for (const event of events) world.happen(event)
      world.settle()
      expect(world.wrongs).toEqual([])
      if (world.deleted) {
        expect([world.exists, world.file, world.manifest]).toEqual([false, undefined, undefined])
        return
      }
      expect(world.is('Exported', 'Serving')).toBe(true)
      expect([world.file, world.fields.size]).toEqual([world.spec.size, world.spec.size])
      // At rest nothing is written.
      expect(world.agent()).toBe(0)
    }),
    { numRuns: 400 },
  )
})
