/** What cannot be changed of a disk, kept with it: API servers before 1.25 let every change through. */
import { checkTransition, InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { formatSize } from '../../crds/quantity.ts'
import { acceptedText } from '../terms/accepted.ts'
import { ACCEPTED_ANNOTATION, FINALIZER, POOL_LABEL } from '../terms/names.ts'

/** What the annotation is to say; undefined where the disk is in our care already. */
export function accept(disk: OnDemandDisk, parsed: OnDemandDisk): string | undefined {
  const { finalizers, labels, annotations } = disk.metadata
  const isClaimed =
    finalizers?.includes(FINALIZER) === true &&
    labels?.[POOL_LABEL] === parsed.spec.poolName &&
    annotations?.[ACCEPTED_ANNOTATION] !== undefined
  return isClaimed ? undefined : (annotations?.[ACCEPTED_ANNOTATION] ?? acceptedText(parsed))
}

/** The first field that is another one than when the disk was accepted, or that shrinks it. */
export function changedField(disk: OnDemandDisk, parsed: OnDemandDisk): InvalidSpecError | undefined {
  const spec = acceptedSpec(disk)
  try {
    if (spec) checkTransition({ ...parsed, spec: { ...parsed.spec, ...absent, ...spec } }, parsed)
  } catch (error) {
    if (error instanceof InvalidSpecError) return error
    throw error
  }
  const { size } = parsed.spec
  const has = disk.status?.size
  if (size === undefined || has === undefined || size >= has || parsed.spec.command !== undefined) {
    return undefined
  }
  return new InvalidSpecError('spec.size', `A disk cannot shrink. Give at least ${has} (${formatSize(has)}).`)
}

/** So that what the accepted spec does not have is not taken from the new one. */
const absent = {
  filesystem: undefined,
  command: undefined,
  upstream: undefined,
  source: undefined,
} as unknown as object

function acceptedSpec({ metadata }: OnDemandDisk): Partial<OnDemandDisk['spec']> | undefined {
  try {
    const spec: unknown = JSON.parse(metadata.annotations?.[ACCEPTED_ANNOTATION] ?? 'null')
    return spec !== null && typeof spec === 'object' ? spec : undefined
  } catch {
    // A user's own text. What they lose is a check that new API servers do for them.
    return undefined
  }
}
