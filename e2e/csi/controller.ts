/** The CSI driver's controller on a pool of its own, and the calls that tests make of it. */
import { afterAll, beforeAll, expect } from 'vitest'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { Volume, VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { NODES } from '../../operator/kube/objects.ts'
import { NAMESPACE, POOL, startPool, type TestPool } from '../kube/pool.ts'
import { type Driver, startDriver } from './driver.ts'

const MIB = 2 ** 20

export const mount: VolumeCapability = {
  mount: { fsType: '', mountFlags: [], volumeMountGroup: '' },
  accessMode: { mode: 'SINGLE_NODE_WRITER' },
}
export const block: VolumeCapability = { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }
export const parameters = { pool: POOL, poolNamespace: NAMESPACE }

export const capacity = (required: number, limit = 0) => ({
  requiredBytes: String(required),
  limitBytes: String(limit),
})

/** To compare with what a call was rejected with. */
export const refused = (code: string, message: string | RegExp = '') =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

/** The name of the object that a volume or a snapshot is. */
export const nameOf = (id: string) => id.split('/')[1] ?? ''

let names = 0
/** As csi-sanity makes them. */
export const newName = () => `sanity-volume-${(names++).toString(16).toUpperCase().padStart(8, '0')}-A1B2C3D4`

export interface TestController {
  readonly pool: TestPool
  readonly driver: Driver
  readonly call: Driver['call']
  /** Makes a volume; `fields` are of the request. */
  make(fields?: object, name?: string, size?: number): Promise<Volume>
  remove(volumeId: string): Promise<object>
  /** A volume for one test. */
  volume(fields?: object): Promise<Volume & AsyncDisposable>
  publish(
    volumeId: string,
    nodeId: string,
    fields?: object,
  ): Promise<{ publishContext: Record<string, string> }>
  unpublish(volumeId: string, nodeId: string): Promise<object>
  diskOf(volumeId: string): Promise<OnDemandDisk>
  /** What failed in the driver that nobody foresaw. */
  errors(): readonly string[]
}

export interface ControllerTerms {
  readonly quota: string
  /** Nodes of these names are there. */
  readonly nodes?: readonly string[]
  readonly mountVolume?: Parameters<typeof startPool>[1]
}

/** Starts it before the tests of this file or block, and ends it after them. */
export function useController({ quota, nodes = [], mountVolume }: ControllerTerms): TestController {
  let pool: TestPool
  let driver: Driver

  beforeAll(async () => {
    pool = await startPool({ quota }, mountVolume)
    for (const name of nodes) {
      await pool.plane.client.create(NODES, { apiVersion: 'v1', kind: 'Node', metadata: { name } })
    }
    driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
  }, 300_000)

  afterAll(async () => {
    await driver?.[Symbol.asyncDispose]()
    await pool?.[Symbol.asyncDispose]()
  })

  const controller: TestController = {
    get pool() {
      return pool
    },
    get driver() {
      return driver
    },
    call: (method, request, deadlineMs) => driver.call(method, request, deadlineMs),
    async make(fields = {}, name = newName(), size = 16 * MIB) {
      const request = {
        name,
        parameters,
        volumeCapabilities: [mount],
        capacityRange: capacity(size),
        ...fields,
      }
      return (await driver.call('CreateVolume', request)).volume
    },
    remove: volumeId => driver.call('DeleteVolume', { volumeId }),
    async volume(fields) {
      const made = await controller.make(fields)
      return Object.assign(made, {
        async [Symbol.asyncDispose]() {
          await controller.unpublish(made.volumeId, '')
          await controller.remove(made.volumeId)
        },
      })
    },
    publish: (volumeId, nodeId, fields = {}) =>
      driver.call('ControllerPublishVolume', { volumeId, nodeId, volumeCapability: mount, ...fields }),
    unpublish: (volumeId, nodeId) => driver.call('ControllerUnpublishVolume', { volumeId, nodeId }),
    diskOf: async volumeId => (await pool.disk(nameOf(volumeId))) as OnDemandDisk,
    errors: () =>
      driver
        .log()
        .split('\n')
        .filter(line => line.includes('"level":"error"')),
  }
  return controller
}
