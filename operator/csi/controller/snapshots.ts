/** Snapshots are DiskSnapshot objects, found by their id `NAMESPACE/NAME`; nothing else is kept. */
import { setTimeout as sleep } from 'node:timers/promises'
import { DISKSNAPSHOT_KIND, type DiskSnapshot } from '../../../crds/disksnapshot.ts'
import { NO_FILESYSTEM } from '../../../crds/filesystem-label.ts'
import { API_GROUP, API_GROUP_VERSION } from '../../../crds/object.ts'
import { quote } from '../../../crds/quote.ts'
import { DISK_SNAPSHOTS } from '../../../crds/resources.ts'
import type { KubeClient } from '../../kube/client.ts'
import { conditionOf } from '../../kube/conditions.ts'
import { hasCode } from '../../kube/kube-error.ts'
import type { Resource } from '../../kube/objects.ts'
import type {
  CreateSnapshotRequest,
  ListSnapshotsRequest,
  ListSnapshotsResponse,
  Snapshot,
  VolumeContentSource,
} from '../protocol/messages.ts'
import type { Call } from '../rpc/call.ts'
import { need, type RpcCode, RpcError } from '../rpc/rpc-error.ts'
import { checkPage, pageOf } from './page.ts'
import { objectNameOf, parseVolumeId, type VolumeRef, volumeIdOf } from './volume-id.ts'
import { filesystemOf, specOf, type Volumes } from './volumes.ts'
import type { ContentSource } from './wanted.ts'

const SNAPSHOTS: Resource<DiskSnapshot> = DISK_SNAPSHOTS

/** On a snapshot that the driver has made: it is listed. */
const SNAPSHOT_LABEL = `${API_GROUP}/csi-snapshot`
/** The name that it was asked for. */
const SNAPSHOT_NAME_ANNOTATION = `${API_GROUP}/snapshot-name`

/** Snapshots are few, and waited for for milliseconds: they are asked for, not followed. In ms. */
const ASK_MS = 100
const MAX_ASK_MS = 2000
/** So long a call waits for a snapshot to be taken, in ms, before it answers that it is not ready to use yet. */
const PATIENCE_MS = 5000

/** Reasons for which a snapshot will not be taken as things are. */
const REFUSALS: Readonly<Record<string, RpcCode>> = {
  QuotaExceeded: 'RESOURCE_EXHAUSTED',
  DiskNotFound: 'NOT_FOUND',
  InvalidSpec: 'INVALID_ARGUMENT',
}

/** Makes the snapshot, or finds it; it may be answered before it is ready to use, and is asked for again then. */
export async function createSnapshot(
  volumes: Volumes,
  client: KubeClient,
  namespace: string | undefined,
  { name, sourceVolumeId, parameters }: CreateSnapshotRequest,
  call: Call,
): Promise<{ snapshot: Snapshot }> {
  const objectName = objectNameOf(name)
  const source = parseSourceId(sourceVolumeId)
  const [parameter] = Object.keys(parameters).filter(key => !key.startsWith('csi.storage.k8s.io/'))
  if (parameter !== undefined) {
    throw new RpcError('INVALID_ARGUMENT', `There is no parameter ${quote(parameter)}; snapshots have none.`)
  }
  if (source === undefined) throw noVolume(sourceVolumeId)
  const ref = { namespace: source.namespace, name: objectName }
  const { signal } = call
  const known = await client.find(SNAPSHOTS, ref, { signal })
  if (known) checkSame(known, name, source)
  else await checkFree(client, namespace, name, source, call)
  const snapshot = known ?? (await make(volumes, client, ref, name, sourceVolumeId, source, call))
  const latest = await untilDecided(client, snapshot, call)
  const ready = conditionOf(latest, 'Ready')
  const code = REFUSALS[ready?.reason ?? '']
  if (code !== undefined && latest.status?.readyToUse !== true) {
    // Nobody knows its id, so nobody else would remove it.
    await removeState(client, latest, call)
    throw new RpcError(code, ready?.message ?? '')
  }
  return { snapshot: snapshotOf(latest) }
}

async function make(
  volumes: Volumes,
  client: KubeClient,
  ref: VolumeRef,
  name: string,
  volumeId: string,
  source: VolumeRef,
  call: Call,
): Promise<DiskSnapshot> {
  const disk = await volumes.get(volumeId, call)
  if (disk.metadata.deletionTimestamp !== undefined) throw noVolume(volumeId)
  const object = {
    apiVersion: API_GROUP_VERSION,
    kind: DISKSNAPSHOT_KIND,
    metadata: {
      ...ref,
      labels: { [SNAPSHOT_LABEL]: '' },
      annotations: { [SNAPSHOT_NAME_ANNOTATION]: name },
    },
    spec: { diskName: source.name },
  } as const
  try {
    return await client.create(SNAPSHOTS, object as DiskSnapshot, { signal: call.signal })
  } catch (error) {
    if (!hasCode(error, 'AlreadyExists')) throw error
    const made = await client.get(SNAPSHOTS, ref, { signal: call.signal })
    checkSame(made, name, source)
    return made
  }
}

/** A name is one snapshot's, wherever its volume is. @throws RpcError ALREADY_EXISTS */
async function checkFree(
  client: KubeClient,
  namespace: string | undefined,
  name: string,
  source: VolumeRef,
  call: Call,
): Promise<void> {
  for (const other of await listAll(client, namespace, call)) {
    if (other.metadata.annotations?.[SNAPSHOT_NAME_ANNOTATION] === name) checkSame(other, name, source)
  }
}

/** @throws RpcError ALREADY_EXISTS for another snapshot of the name, ABORTED for one that is going */
function checkSame({ metadata, spec }: DiskSnapshot, name: string, source: VolumeRef): void {
  const isSame =
    metadata.annotations?.[SNAPSHOT_NAME_ANNOTATION] === name &&
    metadata.namespace === source.namespace &&
    spec.diskName === source.name
  if (!isSame) {
    const what = `${metadata.namespace}/${spec.diskName}`
    throw new RpcError('ALREADY_EXISTS', `The snapshot ${quote(name)} is there, of the volume ${what}.`)
  }
  if (metadata.deletionTimestamp !== undefined) {
    throw new RpcError('ABORTED', `The snapshot ${quote(name)} is being deleted. Try again when it is gone.`)
  }
}

/** Waits until it is ready or refused, or for so long that the answer is that it is not ready yet. */
async function untilDecided(client: KubeClient, snapshot: DiskSnapshot, call: Call): Promise<DiskSnapshot> {
  const deadline = performance.now() + PATIENCE_MS
  let latest = snapshot
  for (let pause = ASK_MS; ; pause = Math.min(pause * 2, MAX_ASK_MS)) {
    const reason = conditionOf(latest, 'Ready')?.reason ?? ''
    const isTold = latest.status?.creationTime !== undefined
    if (latest.status?.readyToUse === true || reason in REFUSALS) return latest
    if (isTold && performance.now() > deadline) return latest
    await sleep(pause, undefined, { signal: call.signal }).catch(() => {
      throw ended(call, latest)
    })
    const found = await client.find(SNAPSHOTS, latest.metadata, { signal: call.signal })
    if (found?.metadata.uid !== snapshot.metadata.uid || found === undefined) {
      throw new RpcError('ABORTED', 'The snapshot has been deleted meanwhile.')
    }
    latest = found
  }
}

function ended({ signal }: Call, snapshot: DiskSnapshot): unknown {
  const ready = conditionOf(snapshot, 'Ready')
  const why = ready ? `${ready.reason}: ${ready.message}` : 'The operator has not looked at it yet.'
  const { reason } = signal
  if (!(reason instanceof RpcError)) return reason
  return new RpcError(reason.code, `${reason.message} The snapshot ${idOf(snapshot)}: ${why}`)
}

/** Deletes the snapshot, and waits until nothing of it is left. */
export async function deleteSnapshot(client: KubeClient, snapshotId: string, call: Call): Promise<object> {
  need('snapshot_id', snapshotId)
  const ref = parseVolumeId(snapshotId)
  const { signal } = call
  const found = ref && (await client.find(SNAPSHOTS, ref, { signal }))
  if (!ref || !found) return {}
  const { uid = '' } = found.metadata
  let latest: DiskSnapshot = found
  if (found.metadata.deletionTimestamp === undefined) await remove(client, found, { uid }, call)
  for (let pause = ASK_MS; ; pause = Math.min(pause * 2, MAX_ASK_MS)) {
    const now = await client.find(SNAPSHOTS, ref, { signal })
    if (now?.metadata.uid !== uid) return {}
    latest = now as DiskSnapshot
    if (conditionOf(latest, 'Taken')?.reason === 'InUse') {
      const message = conditionOf(latest, 'Taken')?.message ?? ''
      throw new RpcError('FAILED_PRECONDITION', `The snapshot ${snapshotId} is in use. ${message}`)
    }
    await sleep(pause, undefined, { signal }).catch(() => {
      throw ended(call, latest)
    })
  }
}

async function remove(
  client: KubeClient,
  { metadata }: DiskSnapshot,
  preconditions: { uid: string; resourceVersion?: string },
  { signal }: Call,
): Promise<void> {
  try {
    await client.delete(SNAPSHOTS, metadata, { signal, preconditions })
  } catch (error) {
    // It is another one by now, or in another state.
    if (!hasCode(error, 'NotFound') && !hasCode(error, 'Conflict')) throw error
  }
}

async function removeState(client: KubeClient, snapshot: DiskSnapshot, call: Call): Promise<void> {
  const { uid = '', resourceVersion = '' } = snapshot.metadata
  await remove(client, snapshot, { uid, resourceVersion }, call)
}

/** All that have been taken, in the order of their ids, page by page; or the one, or those of one volume. */
export async function listSnapshots(
  client: KubeClient,
  namespace: string | undefined,
  request: ListSnapshotsRequest,
  call: Call,
): Promise<ListSnapshotsResponse> {
  checkPage(request)
  const { sourceVolumeId, snapshotId } = request
  const candidates =
    snapshotId === '' ? await listAll(client, namespace, call) : await findOne(client, snapshotId, call)
  const taken = candidates
    .filter(({ status }) => status?.creationTime !== undefined)
    .filter(each => sourceVolumeId === '' || sourceIdOf(each) === sourceVolumeId)
  const { page, nextToken } = pageOf(taken, idOf, request)
  return { entries: page.map(snapshot => ({ snapshot: snapshotOf(snapshot) })), nextToken }
}

async function findOne(client: KubeClient, snapshotId: string, { signal }: Call): Promise<DiskSnapshot[]> {
  const ref = parseVolumeId(snapshotId)
  const found = ref && (await client.find(SNAPSHOTS, ref, { signal }))
  return found ? [found] : []
}

async function listAll(client: KubeClient, namespace: string | undefined, { signal }: Call) {
  const options = { namespace, labelSelector: SNAPSHOT_LABEL, signal }
  return (await client.list(SNAPSHOTS, options)).items
}

/**
 * What a new volume is to be a copy of.
 * @throws RpcError NOT_FOUND, FAILED_PRECONDITION for a snapshot that is not taken yet
 */
export async function contentSource(
  volumes: Volumes,
  client: KubeClient,
  source: VolumeContentSource | null,
  call: Call,
): Promise<ContentSource | undefined> {
  if (!source) return undefined
  if (source.volume) {
    const { volumeId } = source.volume
    const disk = await volumes.get(volumeId, call)
    const { namespace = '', name } = disk.metadata
    const spec = specOf(disk)
    const size = Math.max(spec.size ?? 0, disk.status?.size ?? 0)
    const filesystem = filesystemOf(disk) ?? NO_FILESYSTEM
    return { kind: 'OnDemandDisk', ref: { namespace, name }, pool: spec.poolName, size, filesystem }
  }
  const snapshotId = source.snapshot?.snapshotId ?? ''
  if (snapshotId === '') {
    throw new RpcError('INVALID_ARGUMENT', 'volume_content_source: Give the id of a snapshot or a volume.')
  }
  const [snapshot] = await findOne(client, snapshotId, call)
  if (!snapshot) throw new RpcError('NOT_FOUND', `There is no snapshot ${snapshotId.slice(0, 128)}.`)
  const { readyToUse, poolName: pool = '', size = 0, filesystem = NO_FILESYSTEM } = snapshot.status ?? {}
  if (readyToUse !== true) {
    throw new RpcError('FAILED_PRECONDITION', `The snapshot ${snapshotId} is not ready to use yet.`)
  }
  const { namespace = '', name } = snapshot.metadata
  return { kind: 'DiskSnapshot', ref: { namespace, name }, pool, size, filesystem }
}

function parseSourceId(volumeId: string): VolumeRef | undefined {
  need('source_volume_id', volumeId)
  return parseVolumeId(volumeId)
}

const noVolume = (volumeId: string) =>
  new RpcError('NOT_FOUND', `There is no volume ${volumeId.slice(0, 128)}.`)

const idOf = ({ metadata: { namespace = '', name } }: DiskSnapshot) => volumeIdOf({ namespace, name })
const sourceIdOf = ({ metadata: { namespace = '' }, spec }: DiskSnapshot) =>
  volumeIdOf({ namespace, name: spec.diskName })

function snapshotOf(snapshot: DiskSnapshot): Snapshot {
  const { size = 0, creationTime = '', readyToUse = false } = snapshot.status ?? {}
  const ms = Date.parse(creationTime) || 0
  return {
    snapshotId: idOf(snapshot),
    sourceVolumeId: sourceIdOf(snapshot),
    sizeBytes: String(size),
    creationTime: { seconds: String(Math.floor(ms / 1000)), nanos: (ms % 1000) * 1_000_000 },
    readyToUse,
  }
}
