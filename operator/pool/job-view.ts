/** How a Job that makes disks stands, told from the Job and its Pod. */
import type { Job, KubeObject, Pod } from '../kube/objects.ts'
import { ATTEMPT_LABEL, GENERATION_ANNOTATION } from '../terms/names.ts'
import { restOfQuiet } from '../terms/quiet.ts'
import { noPod, POD_PATIENCE_MS, podProblem } from './pod-problem.ts'

export type JobView =
  | { readonly state: 'none' }
  /** An object of the Job's name that is not ours. */
  | { readonly state: 'foreign'; readonly name: string }
  | { readonly state: 'terminating' }
  | {
      readonly state: 'succeeded'
      /** ms since 1970. */
      readonly finishedAt: number
    }
  | RunningJob
  | FailedJob

export interface RunningJob {
  readonly state: 'running'
  /** When it was made, in ms since 1970. */
  readonly startedAt: number
  /** What keeps its Pod from running. */
  readonly problem?: string | undefined
  /** Nobody has made a Pod for it: `name` of the Job, whose events say why. */
  readonly withoutPod?: { readonly name: string } | undefined
}

export interface FailedJob {
  readonly state: 'failed'
  /** What it said last. */
  readonly message: string
  /** Trying again with the same object cannot help. */
  readonly isFinal: boolean
  /** Generation of the object that it was made for. */
  readonly generation: number
  readonly attempt: number
  /** ms since 1970. */
  readonly finishedAt: number
}

const FIRST_RETRY_MS = 10_000
const MAX_RETRY_MS = 600_000

/** How long after its end a failed attempt is followed by the next, in ms. */
export function retryDelay(attempt: number): number {
  return doubledDelay(attempt, FIRST_RETRY_MS, MAX_RETRY_MS)
}

/** `first` after the first attempt, twice as long each time, `most` at most. */
export function doubledDelay(attempt: number, first: number, most: number): number {
  return Math.min(first * 2 ** Math.min(attempt - 1, 20), most)
}

/** Exit code of `ondemand-disk make` for what trying again does not help. */
const INVALID = 2

/** `ownerUid`: of the disk or pool that the Job works for. */
export function viewJob(job: Job | undefined, pods: readonly Pod[], ownerUid: string | undefined): JobView {
  if (!job) return { state: 'none' }
  const { metadata, status } = job
  if (!isOwnedBy(job, ownerUid)) return { state: 'foreign', name: metadata.name }
  if (metadata.deletionTimestamp !== undefined) return { state: 'terminating' }
  const ended = (type: string) =>
    status?.conditions?.find(each => each.type === type && each.status === 'True')
  const complete = ended('Complete')
  if (complete)
    return { state: 'succeeded', finishedAt: timeOf(complete.lastTransitionTime ?? status?.completionTime) }
  const own = pods.filter(pod => pod.metadata.ownerReferences?.some(({ uid }) => uid === metadata.uid))
  const failure = ended('Failed')
  if (!failure) {
    const problem = own.map(podProblem).find(each => each !== undefined)
    const withoutPod = own.length === 0 ? { name: metadata.name } : undefined
    return { state: 'running', startedAt: timeOf(metadata.creationTimestamp), problem, withoutPod }
  }
  const said = own.map(terminationOf).find(termination => termination !== undefined)
  return {
    state: 'failed',
    message: said?.message || (failure.message ?? failure.reason ?? 'The Job failed.'),
    isFinal: said?.exitCode === INVALID,
    generation: Number(metadata.annotations?.[GENERATION_ANNOTATION] ?? 0),
    attempt: Number(metadata.labels?.[ATTEMPT_LABEL] ?? 1),
    finishedAt: timeOf(failure.lastTransitionTime),
  }
}

/** What keeps a Job at work from getting on, in a sentence, or in how many ms there may be something to say. */
export function jobProblem(
  { startedAt, problem, withoutPod }: RunningJob,
  now: number,
): { readonly message?: string; readonly restMs?: number } {
  if (problem !== undefined) return { message: notRunning(problem) }
  if (withoutPod === undefined) return {}
  const restMs = restOfQuiet(now - startedAt, POD_PATIENCE_MS)
  return restMs === undefined
    ? { message: notRunning(`There is none. ${noPod('job', withoutPod.name)}`) }
    : { restMs }
}

const notRunning = (problem: string) => `The Pod of the Job does not run: ${problem}`

/** Has the object this owner? */
export function isOwnedBy(object: KubeObject | undefined, uid: string | undefined): boolean {
  return uid !== undefined && object?.metadata.ownerReferences?.some(owner => owner.uid === uid) === true
}

/** A Job without a time has just ended, as far as anyone knows; then it must not be tried again at once for ever. */
function timeOf(text: string | undefined): number {
  const time = Date.parse(text ?? '')
  return Number.isNaN(time) ? 0 : time
}

function terminationOf({ status }: Pod): { readonly exitCode: number; readonly message: string } | undefined {
  const terminated = status?.containerStatuses?.[0]?.state?.terminated
  if (!terminated) return undefined
  const { exitCode, message, reason } = terminated
  return {
    exitCode,
    message: message?.trim() || `The Job's Pod ended with ${reason ?? `exit code ${exitCode}`}.`,
  }
}
