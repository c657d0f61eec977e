/** What the agent does for a disk, from what it sees: the manifest, the file, and the status. No I/O. */
import { hasFile, InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { ConditionChange } from '../kube/conditions.ts'
import { conditionOf, isTrue } from '../terms/conditions.ts'
import { FINALIZER, FORCE_DELETE_ANNOTATION, SPARE_ANNOTATION } from '../terms/names.ts'
import { restOfQuiet } from '../terms/quiet.ts'
import { readyNow, readyWhenExported } from '../terms/readiness.ts'
import { AGENT_REASONS } from '../terms/reasons.ts'
import {
  ALLOCATED_PAUSE_MS,
  condition,
  dueFields,
  exportedCondition,
  resizingCondition,
  statusFields,
  usersOf,
} from './exported.ts'
import { deletingManifest, manifestText } from './manifest.ts'
import type { AgentAction, AgentObserved, AgentPlan } from './observed.ts'

/**
 * So long, in ms, a disk made of a spare has no status: until its server tells that it serves it, all is said at one
 * stroke. Its client is being served meanwhile, and each write would be done on the same processors.
 */
export const SPARE_QUIET_MS = 3000

/** Something that only the server can bring is looked for again after so long, in ms, should its news be missed. */
const LOOK_AGAIN_MS = 5000

/**
 * A disk is served once it has been made, which the operator says by the condition Provisioned, or which the agent sees
 * itself where a spare became the disk; from then on its manifest follows the spec.
 */
export function planDisk(observed: AgentObserved): AgentPlan {
  const { disk, parsed } = observed
  if (disk.metadata.deletionTimestamp !== undefined) return planDeletion(observed)
  if (parsed instanceof InvalidSpecError) return planInvalid(observed, parsed)
  if (!isTrue(disk, 'Provisioned')) {
    return parsed.spec.source === undefined ? planSpare(observed, parsed) : planCopy(observed, parsed)
  }
  return planServing(observed, parsed)
}

/**
 * A spec that is wrong changes nothing: the disk is served by its last good one. A pod that is new has none, and what
 * rules there were is not known; so the disk is not served, which must not look as if it were.
 */
function planInvalid({ disk, manifest }: AgentObserved, { message }: InvalidSpecError): AgentPlan {
  if (manifest !== undefined || !isTrue(disk, 'Exported')) return { actions: [] }
  const text = `The pool’s server is new and has no valid spec of the disk. ${message}`
  const fields = (disk.status?.connections ?? 0) > 0 ? { connections: 0, clients: [] } : {}
  const conditions = [condition(disk, 'Exported', 'False', 'Refused', text)]
  return { actions: [{ kind: 'status', change: { conditions, fields } }] }
}

function planServing(observed: AgentObserved, parsed: OnDemandDisk): AgentPlan {
  const { manifest, server } = observed
  const actions: AgentAction[] = []
  const text = manifestText(parsed, servedSize(observed, parsed))
  if (text !== manifest) actions.push({ kind: 'write manifest', text })
  const exported = exportedCondition(observed, parsed)
  const ready = exported?.status === 'True' ? readyWhenExported(observed.disk) : undefined
  const conditions = [exported, resizingCondition(observed, parsed), ready].filter(isGiven)
  const { change, requeueAfterMs } = statusChange(observed, parsed, conditions)
  if (change !== undefined) actions.push({ kind: 'status', change })
  const isUsed = server.state === 'known' && (server.served?.connections.length ?? 0) > 0
  const looks = [requeueAfterMs, isUsed ? ALLOCATED_PAUSE_MS : undefined].filter(isGiven)
  return looks.length === 0 ? { actions } : { actions, requeueAfterMs: Math.min(...looks) }
}

const isGiven = <T>(value: T | undefined): value is T => value !== undefined

/** A disk never shrinks, whatever its spec says: the server would refuse it to all clients. */
function servedSize({ file, allotment }: AgentObserved, { spec }: OnDemandDisk): number | undefined {
  if (spec.size === undefined || spec.command !== undefined) return undefined
  return Math.max(allotment?.size ?? spec.size, file?.size ?? 0)
}

/** News of a condition is written at once, with all that there is; the numbers wait for a while. */
function statusChange(observed: AgentObserved, parsed: OnDemandDisk, conditions: readonly ConditionChange[]) {
  const { disk, sinceWriteMs } = observed
  const fields = statusFields(observed, parsed)
  if (conditions.some(change => isNews(disk, change))) return { change: { conditions, fields } }
  const due = dueFields(fields, disk.status, sinceWriteMs)
  const isDue = Object.keys(due.fields).length > 0
  return {
    change: isDue ? { conditions, fields: due.fields } : undefined,
    requeueAfterMs: due.requeueAfterMs,
  }
}

function isNews(disk: OnDemandDisk, { type, status, reason, message, observedGeneration }: ConditionChange) {
  const known = conditionOf(disk, type)
  return (
    known === undefined ||
    known.status !== status ||
    known.reason !== reason ||
    known.message !== message ||
    known.observedGeneration !== observedGeneration
  )
}

/**
 * A disk that was promised a spare gets it, also where an agent before this one had begun with that. It is served
 * before its status says so, since a client waits for it: the file under the disk's uid is what lasts, and neither a
 * Job nor another agent makes it again.
 */
function planSpare(observed: AgentObserved, parsed: OnDemandDisk): AgentPlan {
  const { disk, file, spare, manifest, now } = observed
  const name = disk.metadata.annotations?.[SPARE_ANNOTATION]
  if (name === undefined || !hasFile(parsed.spec) || (file === undefined && !spare)) return { actions: [] }
  const conditions = [
    condition(disk, 'Formatted', 'True', 'Formatted', 'The disk was formatted as a spare of the pool.'),
    condition(disk, 'Provisioned', 'True', 'SpareTaken', 'The disk was made of a spare of the pool.'),
  ]
  const text = manifestText(parsed, servedSize(observed, parsed))
  const actions: AgentAction[] = [
    ...(file === undefined ? [{ kind: 'take spare', spare: name } as const] : []),
    ...(text === manifest ? [] : [{ kind: 'write manifest', text } as const]),
  ]
  const exported = actions.length === 0 ? exportedCondition(observed, parsed) : undefined
  const isNew = disk.status?.conditions === undefined
  if (isNew && exported?.status === 'True') {
    const ready = readyNow(disk)
    const fields = { ...statusFields(observed, parsed), filesystem: parsed.spec.filesystem?.type }
    return { actions: [{ kind: 'status', change: { conditions: [...conditions, exported, ready], fields } }] }
  }
  const restMs = restOfQuiet(now - Date.parse(disk.metadata.creationTimestamp ?? ''), SPARE_QUIET_MS)
  if (isNew && exported === undefined && restMs !== undefined) return { actions, requeueAfterMs: restMs }
  return { actions: [...actions, { kind: 'status', change: { conditions } }] }
}

/** A disk that the operator has given a place and a source is made as a copy, once. */
function planCopy({ disk, file, copy, now }: AgentObserved, { spec }: OnDemandDisk): AgentPlan {
  const { sourceUid } = disk.status ?? {}
  if (sourceUid === undefined || spec.source === undefined) return { actions: [] }
  if (file !== undefined) {
    const message = AGENT_REASONS.Copied.meaning
    const conditions = (['Formatted', 'Provisioned'] as const).map(type =>
      condition(disk, type, 'True', 'Copied', message),
    )
    return { actions: [{ kind: 'status', change: { conditions } }] }
  }
  // Made once already: a file that is lost must not come back with other content.
  if (isTrue(disk, 'Formatted') || copy.state === 'running') return { actions: [] }
  if (copy.state === 'failed' && now < copy.retryAt) {
    const conditions = [condition(disk, 'Provisioned', 'False', 'CopyFailed', copy.message)]
    return { actions: [{ kind: 'status', change: { conditions } }], requeueAfterMs: copy.retryAt - now }
  }
  const place = spec.source.kind === 'DiskSnapshot' ? 'snapshots' : 'disks'
  return { actions: [{ kind: 'start copy', from: { place, uid: sourceUid } }] }
}

/**
 * In this order: new clients are kept out; the operator says that nothing can make the file any more; the clients are
 * waited for, or disconnected if the user wants it; the manifest goes; the server lets go of the disk; the file goes.
 */
function planDeletion(observed: AgentObserved): AgentPlan {
  const { disk, manifest, server, copy, copiedTo } = observed
  const { finalizers, annotations, deletionTimestamp = '' } = disk.metadata
  const actions: AgentAction[] = copy.state === 'none' ? [] : [{ kind: 'call off copy' }]
  const deleting = manifest && deletingManifest(manifest, deletionTimestamp)
  const isOurs = finalizers?.includes(FINALIZER) === true && conditionOf(disk, 'Ready')?.reason === 'Deleting'
  if (!isOurs || deleting === undefined) {
    if (deleting !== undefined && deleting !== manifest)
      actions.push({ kind: 'write manifest', text: deleting })
    if (!isOurs) return { actions }
    const removal = planRemoval(observed)
    return { ...removal, actions: [...actions, ...removal.actions] }
  }
  // The server makes them, and needs the manifest for it.
  if (copiedTo.length > 0) {
    if (deleting !== manifest) actions.push({ kind: 'write manifest', text: deleting })
    const message = `Copies of it are being made: ${copiedTo.join(', ')}.`
    const conditions = [condition(disk, 'Exported', 'True', 'InUse', message)]
    if (conditions.some(change => isNews(disk, change)))
      actions.push({ kind: 'status', change: { conditions } })
    return { actions, requeueAfterMs: LOOK_AGAIN_MS }
  }
  if (annotations?.[FORCE_DELETE_ANNOTATION] === 'true') {
    return { actions: [{ kind: 'remove manifest' }], requeueAfterMs: LOOK_AGAIN_MS }
  }
  if (deleting !== manifest) actions.push({ kind: 'write manifest', text: deleting })
  if (server.state === 'unknown') return { actions, requeueAfterMs: LOOK_AGAIN_MS }
  const { served } = server
  if (served !== undefined && served.connections.length > 0) {
    const conditions = [condition(disk, 'Exported', 'True', 'InUse', usersOf(served))]
    if (conditions.some(change => isNews(disk, change)))
      actions.push({ kind: 'status', change: { conditions } })
    return { actions, requeueAfterMs: LOOK_AGAIN_MS }
  }
  // Until the server has said that it keeps new clients out, one may just be coming.
  const isClosed = served === undefined ? server.manifestProblem !== undefined : served.deleting === true
  if (isClosed) actions.push({ kind: 'remove manifest' })
  return { actions, requeueAfterMs: LOOK_AGAIN_MS }
}

function planRemoval({ disk, file, isRetained, server }: AgentObserved): AgentPlan {
  const exported = conditionOf(disk, 'Exported')
  const isDone = exported?.reason === 'Removed' || exported?.reason === 'Retained'
  if (isDone && file === undefined) return { actions: [] }
  // A server that may still have the file open, or read its manifest just now, must not be left with half a disk.
  if (server.state === 'unknown' || server.served !== undefined)
    return { actions: [], requeueAfterMs: LOOK_AGAIN_MS }
  // It may have been kept already, and nobody has been told.
  const isKept = file === undefined ? isRetained === true : disk.spec.reclaimPolicy === 'Retain'
  const conditions = [
    isKept
      ? condition(
          disk,
          'Exported',
          'False',
          'Retained',
          `The data is kept as retained/${disk.metadata.uid} on the pool’s volume.`,
        )
      : condition(
          disk,
          'Exported',
          'False',
          'Removed',
          'The disk is not served any more, and its data is gone.',
        ),
  ]
  const removal: AgentAction[] = file === undefined ? [] : [{ kind: isKept ? 'retain file' : 'remove file' }]
  return { actions: [...removal, { kind: 'status', change: { conditions } }] }
}
