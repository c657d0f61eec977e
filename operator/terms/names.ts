/** What the objects, labels, annotations and files of the operator are called. Nothing here comes from a user's text unchecked. */
import { createHash } from 'node:crypto'
import { API_GROUP } from '../../crds/object.ts'

/** On disks and on pools: something has to be done before the object may go. */
export const FINALIZER = `${API_GROUP}/disk-protection`
/** On disks and on all that belongs to a pool: the pool's name. */
export const POOL_LABEL = `${API_GROUP}/pool`
/** On a disk's Job and its Pods: the disk's uid. */
export const DISK_LABEL = `${API_GROUP}/disk-uid`
/** On a Job: which attempt it is, from 1. */
export const ATTEMPT_LABEL = `${API_GROUP}/attempt`
/** On a Job: generation of the object that it was made for. */
export const GENERATION_ANNOTATION = `${API_GROUP}/generation`
/** On the Pods of a Job that makes disks: the object that `ondemand-disk make` reads. */
export const OBJECT_ANNOTATION = `${API_GROUP}/object`
/** On a disk: the first Job was to be made right after this was written. */
export const BEGUN_ANNOTATION = `${API_GROUP}/begun`
/** On a disk, by its user: `"true"` deletes it though clients have it open. */
export const FORCE_DELETE_ANNOTATION = `${API_GROUP}/force-delete`
/** On a disk or a snapshot: what cannot be changed of its spec, as it was accepted, for API servers that do not know CEL. */
export const ACCEPTED_ANNOTATION = `${API_GROUP}/accepted`
/** On a disk that a client has made by connecting: `"true"`. */
export const ON_DEMAND_ANNOTATION = `${API_GROUP}/on-demand`
/** On such a disk: the spare that it is made of. */
export const SPARE_ANNOTATION = `${API_GROUP}/spare`

/** Label `app.kubernetes.io/managed-by`, and the field manager, of all that the operator makes. */
export const MANAGER = 'ondemand-disk-operator'
export const MANAGED_SELECTOR = `app.kubernetes.io/managed-by=${MANAGER}`

/** What a part of a pool is, by the label `app.kubernetes.io/component`. */
export type Component = 'server' | 'make' | 'storage'

/** Labels of what belongs to a pool. */
export function labelsOf(pool: string, component: Component): Record<string, string> {
  return {
    'app.kubernetes.io/name': 'ondemand-disk',
    'app.kubernetes.io/instance': pool,
    'app.kubernetes.io/component': component,
    'app.kubernetes.io/managed-by': MANAGER,
    [POOL_LABEL]: pool,
  }
}

/** Name of a disk's Job. The uid is the API server's own, 36 characters. */
export const diskJobName = (uid: string) => `odd-${uid}`
/** Name of the Job that makes a pool's spares. */
export const spareJobName = (poolUid: string) => `odd-spares-${poolUid}`

/** A StatefulSet's name with the hash of a revision behind it becomes a label of its Pods, which has 63 characters. */
const MAX_STATEFUL_SET = 52
const MAX_NAME = 63

/** A name made of another one: cut, and told apart by a hash, where it would be too long. */
function boundedName(name: string, suffix: string, limit = MAX_NAME): string {
  if (name.length + suffix.length <= limit) return name + suffix
  const hash = createHash('sha256').update(name).digest('hex').slice(0, 8)
  return `${name.slice(0, limit - suffix.length - hash.length - 1).replace(/-+$/, '')}-${hash}${suffix}`
}

/** Names of what a pool is made of. */
export function poolNames(pool: string) {
  const server = boundedName(pool, '', MAX_STATEFUL_SET)
  return {
    /** Of the StatefulSet. */
    server,
    pod: `${server}-0`,
    /** Pools have names that Services may have. */
    service: pool,
    agent: boundedName(pool, '-agent'),
    networkPolicy: server,
    claim: boundedName(pool, '-disks'),
  }
}

/** Where the pool's volume is mounted in all Pods, and what is in it. */
export const VOLUME_PATH = '/pool'
export const DISKS_PATH = `${VOLUME_PATH}/disks`
export const SPARES_PATH = `${VOLUME_PATH}/spares`
export const RETAINED_PATH = `${VOLUME_PATH}/retained`
