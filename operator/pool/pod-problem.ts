import type { Pod } from '../kube/objects.ts'

/** Reasons of a container that waits which do not pass by themselves soon. */
const STUCK = new Set([
  'CrashLoopBackOff',
  'ErrImagePull',
  'ImagePullBackOff',
  'InvalidImageName',
  'ErrImageNeverPull',
  'CreateContainerConfigError',
  'CreateContainerError',
  'RunContainerError',
])

const MAX_MESSAGE = 500

/** How long a controller may need for making a Pod before something is said to keep it from that, in ms. */
export const POD_PATIENCE_MS = 30_000

/** Why an object may have no Pod, and where that stands: nobody but the object is told. */
export function noPod(kind: 'job' | 'statefulset', name: string): string {
  return `A quota, a LimitRange or Pod Security may refuse it: kubectl describe ${kind} ${name} says why.`
}

/** Why a Pod does not run, in a sentence; undefined if it does, or is on its way. */
export function podProblem({ status }: Pod): string | undefined {
  const scheduled = status?.conditions?.find(({ type }) => type === 'PodScheduled')
  if (scheduled?.status === 'False' && scheduled.reason === 'Unschedulable') {
    return `No node can take it: ${bounded(scheduled.message ?? '')}`
  }
  if (status?.phase === 'Failed')
    return bounded(`It failed: ${status.message ?? status.reason ?? 'no reason is given'}`)
  for (const { name, state, lastState } of [
    ...(status?.initContainerStatuses ?? []),
    ...(status?.containerStatuses ?? []),
  ]) {
    const waiting = state?.waiting
    if (!waiting?.reason || !STUCK.has(waiting.reason)) continue
    const last = lastState?.terminated
    const words = lastWords(last?.message ?? '')
    const why = last ? `, exit code ${last.exitCode}${words === '' ? '' : `: ${words}`}` : ''
    // The message of a back-off has times in it that change all the time.
    const detail = waiting.reason === 'CrashLoopBackOff' ? why : waiting.message ? `: ${waiting.message}` : ''
    return bounded(`Container ${name}: ${waiting.reason}${detail}`)
  }
  return undefined
}

/**
 * What a container said last, if it was of its end: a program that is killed may have spoken of a client. Without the
 * time of a line of its log, which would be another one after each try.
 */
function lastWords(text: string): string {
  const line = text.trim().split('\n').at(-1) ?? ''
  if (!line.startsWith('{')) return line
  try {
    const { level, msg, reason } = JSON.parse(line)
    if (level !== 'error' && level !== 'fatal') return ''
    return typeof reason === 'string' ? `${msg}: ${reason}` : String(msg)
  } catch {
    return ''
  }
}

function bounded(text: string): string {
  return text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text
}

/** Is the Pod ready, and to stay? */
export function isReady({ metadata, status }: Pod): boolean {
  return (
    metadata.deletionTimestamp === undefined &&
    status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true
  )
}
