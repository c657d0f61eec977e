/**
 * Stands in for Kubernetes' own sidecars of a CSI driver, whose images cannot be had here: it calls the same methods at
 * the driver's real sockets, and changes the same objects, as node-driver-registrar, external-provisioner,
 * external-attacher and external-resizer do. What it does not have: leader election, secrets, topology, events, back-off.
 */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type Client,
  credentials,
  makeClientConstructor,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type ServiceError,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { loadServices } from '../../operator/csi/protocol/definition.ts'
import { contentSource, reconcileSnapshot, volumeSnapshots } from './csi-snapshotter.ts'
import type { Cluster, KubeObject } from './harness.ts'
import { RELEASE_NAMESPACE } from './release.ts'

export const DRIVER = 'csi.ondemanddisk.dev'
const KUBELET = '/var/lib/kubelet'
const PLUGIN = join(KUBELET, 'plugins', DRIVER, 'csi.sock')
const REGISTRATION = join(KUBELET, 'plugins_registry', `${DRIVER}-reg.sock`)
const ATTACHER_FINALIZER = `external-attacher/${DRIVER.replaceAll('.', '-')}`
const PROVISIONER_FINALIZER = 'external-provisioner.volume.kubernetes.io/finalizer'
const POLL_MS = 250
const CALL_MS = 60_000
const WORKERS = 100

export interface Sidecars extends AsyncDisposable {
  /** A call at the driver's controller, as an administrator may make it. */
  controller(method: string, request: object): Promise<KubeObject>
  /** A call at the driver's node service on the node. */
  node(method: string, request: object): Promise<KubeObject>
  /** What has failed so far, and was or will be tried again. */
  readonly failures: readonly string[]
}

const services = loadServices()

function callAt(
  path: string,
  service: 'controller' | 'node',
  method: string,
  request: object,
): Promise<KubeObject> {
  const Constructor = makeClientConstructor(services[service], service)
  const client = new Constructor(`unix:${path}`, credentials.createInsecure()) as Client &
    Record<
      string,
      (request: object, options: object, done: (error: ServiceError | null, value: unknown) => void) => void
    >
  return new Promise((resolve, reject) => {
    client[method]?.(request, { deadline: Date.now() + CALL_MS }, (error, value) => {
      client.close()
      if (error) reject(new Error(`${method}: ${error.message}`, { cause: error }))
      else resolve(value)
    })
  })
}

/** The socket of the controller, which is in an emptyDir of its pod. */
async function controllerSocket(cluster: Cluster): Promise<string> {
  const path = `/api/v1/namespaces/${RELEASE_NAMESPACE}/pods?labelSelector=app.kubernetes.io/component%3Dcsi-controller`
  const pod = (await cluster.get(path))?.items.find((item: KubeObject) => !item.metadata.deletionTimestamp)
  if (pod === undefined) throw new Error('The controller has no pod.')
  return join(KUBELET, 'pods', pod.metadata.uid, 'volumes/kubernetes.io~empty-dir/socket/csi.sock')
}

/** Registers the plug-in at the kubelet of this machine. */
async function register(): Promise<() => Promise<void>> {
  const definition = loadSync(join(import.meta.dirname, 'registration.proto'), {
    keepCase: true,
    defaults: true,
  })
  const server = new Server()
  server.addService(definition['pluginregistration.Registration'] as ServiceDefinition, {
    GetInfo: (_: unknown, done: (error: null, value: object) => void) =>
      done(null, { type: 'CSIPlugin', name: DRIVER, endpoint: PLUGIN, supported_versions: ['1.0.0'] }),
    NotifyRegistrationStatus: (_: unknown, done: (error: null, value: object) => void) => done(null, {}),
  })
  await rm(REGISTRATION, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${REGISTRATION}`, ServerCredentials.createInsecure(), error => {
      if (error) reject(error)
      else resolve()
    })
  })
  return async () => {
    server.forceShutdown()
    await rm(REGISTRATION, { force: true })
  }
}

export async function startSidecars(cluster: Cluster): Promise<Sidecars> {
  const failures: string[] = []
  const stop = new AbortController()
  const underWay = new Map<string, Promise<void>>()
  const unregister = await register()
  const controller = async (method: string, request: object) =>
    callAt(await controllerSocket(cluster), 'controller', method, request)
  const list = async (path: string): Promise<KubeObject[]> => (await cluster.get(path))?.items ?? []

  /** One work at a time for each key; what fails is tried again at the next look. */
  function once(key: string, work: () => Promise<void>): void {
    if (underWay.has(key) || underWay.size >= WORKERS) return
    const done = work()
      .catch((error: unknown) => {
        failures.push(`${key}: ${error instanceof Error ? error.message : error}`)
      })
      .finally(() => underWay.delete(key))
    underWay.set(key, done)
  }

  async function look(): Promise<void> {
    for (const snapshot of await volumeSnapshots(cluster)) {
      once(`snapshot ${snapshot.metadata.uid}`, () => reconcileSnapshot(cluster, controller, snapshot))
    }
    const claims = await list('/api/v1/persistentvolumeclaims')
    const volumes = (await list('/api/v1/persistentvolumes')).filter(
      ({ spec }) => spec.csi?.driver === DRIVER,
    )
    const attachments = (await list('/apis/storage.k8s.io/v1/volumeattachments')).filter(
      ({ spec }) => spec.attacher === DRIVER,
    )
    for (const claim of claims) {
      const isOurs = claim.metadata.annotations?.['volume.beta.kubernetes.io/storage-provisioner'] === DRIVER
      const volume = volumes.find(({ metadata }) => metadata.name === claim.spec.volumeName)
      if (isOurs && claim.status.phase === 'Pending')
        once(`provision ${claim.metadata.uid}`, () => provision(claim))
      if (volume && claim.status.phase === 'Bound' && isLarger(claim, volume))
        once(`resize ${claim.metadata.uid}`, () => resize(claim, volume))
    }
    for (const volume of volumes) {
      const isAttached = attachments.some(
        ({ spec }) => spec.source.persistentVolumeName === volume.metadata.name,
      )
      const isReleased =
        volume.status.phase === 'Released' && volume.spec.persistentVolumeReclaimPolicy === 'Delete'
      if (isReleased && !isAttached) once(`delete ${volume.metadata.name}`, () => remove(volume))
    }
    for (const attachment of attachments) {
      const volume = volumes.find(
        ({ metadata }) => metadata.name === attachment.spec.source.persistentVolumeName,
      )
      if (volume) once(`attach ${attachment.metadata.name}`, () => attach(attachment, volume))
    }
  }

  async function provision(claim: KubeObject): Promise<void> {
    const { name, namespace, uid } = claim.metadata
    const {
      parameters,
      mountOptions = [],
      reclaimPolicy,
    } = await cluster.get(`/apis/storage.k8s.io/v1/storageclasses/${claim.spec.storageClassName}`)
    const isBlock = claim.spec.volumeMode === 'Block'
    const fsType = parameters['csi.storage.k8s.io/fstype']
    const kind = isBlock ? { block: {} } : { mount: { fsType, mountFlags: mountOptions } }
    const volumeContentSource = await contentSource(cluster, claim)
    const { volume } = await controller('CreateVolume', {
      name: `pvc-${uid}`,
      capacityRange: { requiredBytes: bytes(claim.spec.resources.requests.storage) },
      volumeCapabilities: [{ ...kind, accessMode: { mode: 'SINGLE_NODE_WRITER' } }],
      ...(volumeContentSource && { volumeContentSource }),
      parameters: {
        ...Object.fromEntries(
          Object.entries(parameters).filter(([key]) => !key.startsWith('csi.storage.k8s.io/')),
        ),
        'csi.storage.k8s.io/fstype': fsType,
        'csi.storage.k8s.io/pvc/name': name,
        'csi.storage.k8s.io/pvc/namespace': namespace,
        'csi.storage.k8s.io/pv/name': `pvc-${uid}`,
      },
    })
    await cluster.apply({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: {
        name: `pvc-${uid}`,
        finalizers: [PROVISIONER_FINALIZER],
        annotations: { 'pv.kubernetes.io/provisioned-by': DRIVER },
      },
      spec: {
        accessModes: claim.spec.accessModes,
        capacity: { storage: volume.capacityBytes },
        claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name, namespace, uid },
        csi: {
          driver: DRIVER,
          volumeHandle: volume.volumeId,
          ...(isBlock ? {} : { fsType }),
          ...(Object.keys(volume.volumeContext).length > 0 && { volumeAttributes: volume.volumeContext }),
        },
        mountOptions,
        persistentVolumeReclaimPolicy: reclaimPolicy,
        storageClassName: claim.spec.storageClassName,
        volumeMode: claim.spec.volumeMode ?? 'Filesystem',
      },
    })
  }

  async function remove(volume: KubeObject): Promise<void> {
    await controller('DeleteVolume', { volumeId: volume.spec.csi.volumeHandle })
    const path = `/api/v1/persistentvolumes/${volume.metadata.name}`
    await cluster.send('DELETE', path)
    const finalizers = volume.metadata.finalizers.filter((name: string) => name !== PROVISIONER_FINALIZER)
    await cluster.send('PATCH', path, { metadata: { finalizers } })
  }

  const capability = ({ spec }: KubeObject) => ({
    ...(spec.volumeMode === 'Block'
      ? { block: {} }
      : { mount: { fsType: spec.csi.fsType, mountFlags: spec.mountOptions ?? [] } }),
    accessMode: { mode: 'SINGLE_NODE_WRITER' },
  })

  async function attach(attachment: KubeObject, volume: KubeObject): Promise<void> {
    const path = `/apis/storage.k8s.io/v1/volumeattachments/${attachment.metadata.name}`
    const { nodeName } = attachment.spec
    const { volumeHandle } = volume.spec.csi
    const finalizers: string[] = attachment.metadata.finalizers ?? []
    if (attachment.metadata.deletionTimestamp !== undefined) {
      if (!finalizers.includes(ATTACHER_FINALIZER)) return
      await controller('ControllerUnpublishVolume', { volumeId: volumeHandle, nodeId: nodeName })
      await cluster.send('PATCH', path, { metadata: { finalizers: null } })
      return
    }
    if (attachment.status?.attached) return
    if (!finalizers.includes(ATTACHER_FINALIZER)) {
      await cluster.send('PATCH', path, { metadata: { finalizers: [...finalizers, ATTACHER_FINALIZER] } })
    }
    try {
      const { publishContext } = await controller('ControllerPublishVolume', {
        volumeId: volumeHandle,
        nodeId: nodeName,
        volumeCapability: capability(volume),
      })
      await cluster.send('PATCH', `${path}/status`, {
        status: { attached: true, attachmentMetadata: publishContext, attachError: null },
      })
    } catch (error) {
      const attachError = { message: `${error}`, time: new Date().toISOString() }
      await cluster.send('PATCH', `${path}/status`, { status: { attached: false, attachError } })
      throw error
    }
  }

  async function resize(claim: KubeObject, volume: KubeObject): Promise<void> {
    const wanted = bytes(claim.spec.resources.requests.storage)
    const { capacityBytes, nodeExpansionRequired } = await controller('ControllerExpandVolume', {
      volumeId: volume.spec.csi.volumeHandle,
      capacityRange: { requiredBytes: wanted },
      volumeCapability: capability(volume),
    })
    const { name, namespace } = claim.metadata
    await cluster.send('PATCH', `/api/v1/persistentvolumes/${volume.metadata.name}`, {
      spec: { capacity: { storage: capacityBytes } },
    })
    const conditions = [
      { type: 'FileSystemResizePending', status: 'True', lastTransitionTime: new Date().toISOString() },
    ]
    await cluster.send('PATCH', `/api/v1/namespaces/${namespace}/persistentvolumeclaims/${name}/status`, {
      status: nodeExpansionRequired ? { conditions } : { capacity: { storage: capacityBytes } },
    })
  }

  const looking = (async () => {
    while (!stop.signal.aborted) {
      // The API server may be away.
      await look().catch((error: unknown) => failures.push(`look: ${error}`))
      await sleep(POLL_MS)
    }
  })()

  return {
    controller,
    node: (method, request) => callAt(PLUGIN, 'node', method, request),
    failures,
    async [Symbol.asyncDispose]() {
      stop.abort()
      await looking
      await Promise.all(underWay.values())
      await unregister()
    },
  }
}

const isLarger = (claim: KubeObject, volume: KubeObject) =>
  Number(bytes(claim.spec.resources.requests.storage)) > Number(bytes(volume.spec.capacity.storage))

const UNITS: Readonly<Record<string, number>> = { '': 1, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 }

function bytes(quantity: string): string {
  const [, number = '', unit = ''] = /^(\d+)(Ki|Mi|Gi)?$/.exec(quantity) ?? []
  const factor = UNITS[unit]
  if (number === '' || factor === undefined) throw new Error(`${quantity} is no size that is used here.`)
  return String(Number(number) * factor)
}
