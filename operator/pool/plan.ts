/** What is to be done for a pool, decided from what is seen of it, and from nothing else. */
import { createHash } from 'node:crypto'
import { checkPoolTransition, type DiskPool } from '../../crds/diskpool.ts'
import { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import { API_GROUP } from '../../crds/object.ts'
import { parseQuantity, SizeError } from '../../crds/quantity.ts'
import { covers } from '../kube/apply.ts'
import type { ConditionChange } from '../kube/conditions.ts'
import type { KubeObject, PersistentVolumeClaim, Pod, Service } from '../kube/objects.ts'
import { conditionOf, observedGeneration } from '../terms/conditions.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, MANAGER } from '../terms/names.ts'
import { restOfQuiet } from '../terms/quiet.ts'
import { POOL_REASONS, type PoolReason } from '../terms/reasons.ts'
import { isOwnedBy } from './job-view.ts'
import { PARTS, type Part, type PoolAction, type PoolObserved, type PoolPlan } from './observed.ts'
import { claim, claimName, networkPolicy, ownerOf, roleBinding, service, serviceAccount } from './parts.ts'
import { isReady, noPod, POD_PATIENCE_MS, podProblem } from './pod-problem.ts'
import { NBD_PORT, serverSet } from './server-pod.ts'
import { planSpares } from './spares.ts'

/** On what the operator applies: a hash of all of it, which tells that a field is wanted no longer. */
const APPLIED_ANNOTATION = `${API_GROUP}/applied`

/** What stands in the way is watched, but not however much of it there is: it is looked at again after so long, in ms. */
const TAKEN_MS = 300_000

/** What is to be done now. */
export function planPool(observed: PoolObserved): PoolPlan {
  const { pool, parsed } = observed
  if (pool.metadata.deletionTimestamp !== undefined) return planDeletion(observed)
  if (parsed instanceof InvalidSpecError) return invalid(pool, parsed)
  const changed = changedField(pool, parsed)
  if (changed) return invalid(pool, changed)
  const accepted = accept(pool, parsed)
  if (accepted !== undefined) return { actions: [{ kind: 'claim', accepted }] }

  const { actions, taken } = build(observed, parsed)
  const spares = planSpares(observed, parsed)
  const waits = [
    taken === undefined ? undefined : TAKEN_MS,
    spares.requeueAfterMs,
    observed.serverPod === undefined ? restOfPatience(observed) : undefined,
  ].filter(wait => wait !== undefined)
  return {
    ...(waits.length > 0 && { requeueAfterMs: Math.min(...waits) }),
    actions: [...actions, report(observed, parsed, taken), ...spares.actions],
  }
}

function invalid(pool: DiskPool, { message }: InvalidSpecError): PoolPlan {
  const event = { type: 'Warning', reason: 'InvalidSpec', message } as const
  const change = {
    conditions: [condition(pool, 'Ready', 'False', 'InvalidSpec', message)],
    fields: observedGeneration(pool),
  }
  return { actions: [{ kind: 'status', change, event }] }
}

/** The volume is the one thing of a pool that stays. */
function accept(pool: DiskPool, parsed: DiskPool): string | undefined {
  const annotation = pool.metadata.annotations?.[ACCEPTED_ANNOTATION]
  if (annotation !== undefined && pool.metadata.finalizers?.includes(FINALIZER)) return undefined
  const { claimName: name, claimTemplate } = parsed.spec.storage
  const storage = { claimName: name, claimTemplate: claimTemplate && { ...claimTemplate, size: undefined } }
  return annotation ?? JSON.stringify(storage)
}

function changedField(pool: DiskPool, parsed: DiskPool): InvalidSpecError | undefined {
  try {
    const storage = JSON.parse(pool.metadata.annotations?.[ACCEPTED_ANNOTATION] ?? 'null')
    if (storage === null || typeof storage !== 'object') return undefined
    checkPoolTransition({ ...parsed, spec: { ...parsed.spec, storage } }, parsed)
  } catch (error) {
    if (error instanceof InvalidSpecError) return error
    // A user's own text. What they lose is a check that new API servers do for them.
    if (!(error instanceof SyntaxError)) throw error
  }
  return undefined
}

/** What has to be made or changed, and the first object in the way. */
function build(observed: PoolObserved, pool: DiskPool): { actions: PoolAction[]; taken: string | undefined } {
  const actions: PoolAction[] = []
  let taken: string | undefined
  const template = pool.spec.storage.claimTemplate
  const wantedClaim = claim(pool)
  const actualClaim = observed.claim as PersistentVolumeClaim | undefined
  if (template && wantedClaim) {
    if (!actualClaim) actions.push({ kind: 'create claim', object: wantedClaim })
    else if (actualClaim.metadata.labels?.['app.kubernetes.io/managed-by'] !== MANAGER) {
      taken = `The PersistentVolumeClaim ${actualClaim.metadata.name}`
    } else if (bytesOf(actualClaim.spec?.resources?.requests?.storage) < template.size) {
      actions.push({ kind: 'grow claim', name: actualClaim.metadata.name, size: template.size })
    }
  }
  for (const part of PARTS) {
    const actual = observed.parts[part]
    if (actual && !isOwnedBy(actual, pool.metadata.uid)) {
      taken ??= `The ${actual.kind} ${actual.metadata.name}`
      continue
    }
    if (actual?.metadata.deletionTimestamp !== undefined) continue
    const object = withHash(wantedPart(part, pool, observed))
    if (!actual || !covers(actual, comparable(object))) {
      actions.push({ kind: 'apply', part, object, isNew: !actual })
    }
  }
  // Without its name a server must not run in another's place.
  return { actions: taken === undefined ? actions : [], taken }
}

function wantedPart(part: Part, pool: DiskPool, { settings }: PoolObserved): KubeObject {
  const owner = ownerOf(pool)
  switch (part) {
    case 'serviceAccount':
      return serviceAccount(pool, owner)
    case 'roleBinding':
      return roleBinding(pool, owner, settings)
    case 'service':
      return service(pool, owner)
    case 'networkPolicy':
      return networkPolicy(pool, owner)
    case 'server':
      return serverSet(pool, owner, claimName(pool), settings)
  }
}

function withHash(object: KubeObject): KubeObject {
  const hash = createHash('sha256').update(JSON.stringify(object)).digest('hex').slice(0, 16)
  const annotations = { ...object.metadata.annotations, [APPLIED_ANNOTATION]: hash }
  return { ...object, metadata: { ...object.metadata, annotations } }
}

/** The API server writes quantities in its own way; that they are others now tells the hash. */
function comparable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(comparable)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, field]) =>
      key === 'resources' && field !== null && typeof field === 'object' ? [] : [[key, comparable(field)]],
    ),
  )
}

/** A claim that a person has made larger than any disk can be is no reason to leave its pool alone. */
function bytesOf(quantity: string | undefined): number {
  if (quantity === undefined) return 0
  try {
    return parseQuantity(quantity, { allowZero: true })
  } catch (error) {
    if (error instanceof SizeError) return Number.POSITIVE_INFINITY
    throw error
  }
}

function report(observed: PoolObserved, pool: DiskPool, taken: string | undefined): PoolAction {
  const storage = storageCondition(observed, pool)
  const server = serverCondition(observed, pool)
  // Most claims are bound when there is a Pod that uses them (WaitForFirstConsumer).
  const waitsForPod = storage.reason === 'ClaimPending' && withoutPod(observed) !== undefined
  const notReady = (waitsForPod ? [server] : [storage, server]).find(({ status }) => status !== 'True')
  const ready =
    taken !== undefined
      ? condition(
          pool,
          'Ready',
          'False',
          'NameTaken',
          `${taken} is not the operator's, but has the name that the pool needs.`,
        )
      : notReady
        ? { ...notReady, type: 'Ready' }
        : condition(pool, 'Ready', 'True', 'Ready')
  const { disks } = observed
  return {
    kind: 'status',
    change: {
      conditions: [storage, server, ready],
      fields: {
        ...observedGeneration(pool),
        uri: uriOf(observed, pool),
        disks: disks.count,
        provisioned: disks.provisioned,
      },
    },
    ...(taken !== undefined && {
      event: { type: 'Warning', reason: 'NameTaken', message: ready.message } as const,
    }),
  }
}

function storageCondition({ claim: object }: PoolObserved, pool: DiskPool): ConditionChange {
  const type = 'StorageReady'
  const name = claimName(pool)
  const actual = object as PersistentVolumeClaim | undefined
  const say = (reason: PoolReason, message: string) => condition(pool, type, 'False', reason, message)
  if (!actual) {
    return pool.spec.storage.claimName === undefined
      ? say('ClaimPending', `The PersistentVolumeClaim ${name} is being made.`)
      : say('ClaimNotFound', `There is no PersistentVolumeClaim ${name} in this namespace.`)
  }
  if (actual.metadata.deletionTimestamp !== undefined) {
    return say(
      'ClaimDeleting',
      `The PersistentVolumeClaim ${name} is being deleted, and with it the data of all disks.`,
    )
  }
  if (actual.status?.phase === 'Bound') return condition(pool, type, 'True', 'Bound')
  if (actual.status?.phase === 'Lost')
    return say('ClaimLost', `The volume of the PersistentVolumeClaim ${name} is gone.`)
  return say('ClaimPending', `The PersistentVolumeClaim ${name} is not bound to a volume yet.`)
}

const SERVER = 'ServerReady'

/** How long the server may still have no Pod before that is said, in ms; undefined: no longer. */
function restOfPatience({ pool, now }: PoolObserved): number | undefined {
  const since = conditionOf(pool, SERVER)
  if (since?.status !== 'False') return POD_PATIENCE_MS
  return restOfQuiet(now - Date.parse(since.lastTransitionTime), POD_PATIENCE_MS)
}

/** The server's StatefulSet, where nobody has made its Pod in good time. */
function withoutPod(observed: PoolObserved): KubeObject | undefined {
  const { serverPod, parts } = observed
  return serverPod === undefined && restOfPatience(observed) === undefined ? parts.server : undefined
}

function serverCondition(observed: PoolObserved, pool: DiskPool): ConditionChange {
  const type = SERVER
  const pod = observed.serverPod as Pod | undefined
  if (pod && isReady(pod)) return condition(pool, type, 'True', 'Serving')
  const set = withoutPod(observed)
  if (set !== undefined) {
    const message = `The server has no Pod. ${noPod('statefulset', set.metadata.name)}`
    return condition(pool, type, 'False', 'ServerNotRunning', message)
  }
  const problem = pod && podProblem(pod)
  if (problem === undefined) return condition(pool, type, 'False', 'ServerStarting')
  return condition(
    pool,
    type,
    'False',
    'ServerNotRunning',
    `The Pod ${pod?.metadata.name} does not run. ${problem}`,
  )
}

/** Where clients find the server: the load balancer if there is one, else the Service's name. */
function uriOf({ parts }: PoolObserved, { metadata, spec }: DiskPool): string {
  // One that is in the way leads to somebody else's pods.
  const { status } = (isOwnedBy(parts.service, metadata.uid) ? parts.service : {}) as Service
  const [ingress] = status?.loadBalancer?.ingress ?? []
  const address = ingress?.hostname ?? ingress?.ip
  const host =
    address === undefined
      ? `${metadata.name}.${metadata.namespace}.svc`
      : address.includes(':')
        ? `[${address}]`
        : address
  return `${spec.tls.mode === 'Require' ? 'nbds' : 'nbd'}://${host}:${NBD_PORT}`
}

/** A condition of ours. */
export function condition(
  pool: DiskPool,
  type: string,
  status: 'True' | 'False',
  reason: PoolReason,
  message: string = POOL_REASONS[reason].meaning,
): ConditionChange {
  return { type, status, reason, message, ...observedGeneration(pool) }
}

/** All that a pool has goes with it by itself, but for its disks and their volume. */
function planDeletion({ pool, disks, isNamespaceTerminating, parsed }: PoolObserved): PoolPlan {
  if (!pool.metadata.finalizers?.includes(FINALIZER)) return { actions: [] }
  const { count, snapshots = 0, names } = disks
  const all = count + snapshots
  if (all > 0 && !isNamespaceTerminating) {
    const more = all > names.length ? `, and ${all - names.length} more` : ''
    const what = snapshots === 0 ? `${count} disks` : `${count} disks and ${snapshots} snapshots`
    const message = `Waiting for ${count === 1 && snapshots === 0 ? 'the disk' : what} ${names.join(', ')}${more}. Delete ${all === 1 ? 'it' : 'them'}.`
    const change = {
      conditions: [condition(pool, 'Ready', 'False', 'Deleting', message)],
      fields: { ...observedGeneration(pool), disks: disks.count, provisioned: disks.provisioned },
    }
    return { actions: [{ kind: 'status', change, event: { type: 'Warning', reason: 'Deleting', message } }] }
  }
  const keeps = !(parsed instanceof InvalidSpecError) && parsed.spec.storage.claimTemplate !== undefined
  const message = `The PersistentVolumeClaim ${keeps ? claimName(parsed) : ''} is kept. Delete it when nothing in it is needed any more.`
  return {
    actions: [
      { kind: 'release', ...(keeps && { event: { type: 'Normal', reason: 'ClaimKept', message } as const }) },
    ],
  }
}
