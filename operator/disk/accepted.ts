/** What cannot be changed of a disk, kept with it: API servers before 1.25 let every change through. */
import { InvalidSpecError, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { formatSize } from '../../crds/quantity.ts'
import { acceptedText, changedField } from '../terms/accepted.ts'
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
export function wrongChange(disk: OnDemandDisk, parsed: OnDemandDisk): InvalidSpecError | undefined {
  const changed = changedField(disk, parsed)
  if (changed) return changed
  const { size } = parsed.spec
  const has = disk.status?.size
  if (size === undefined || has === undefined || size >= has || parsed.spec.command !== undefined) {
    return undefined
  }
  return new InvalidSpecError('spec.size', `A disk cannot shrink. Give at least ${has} (${formatSize(has)}).`)
}
