/** What is kept with a disk of what cannot be changed of it: API servers before 1.25 let every change through. */
import { InvalidSpecError } from '../../crds/invalid-spec-error.ts'
import { checkTransition, type OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { ACCEPTED_ANNOTATION } from './names.ts'

/** The fields that `checkTransition` compares, but for the size, which grows. */
function fixedFields({ spec }: OnDemandDisk): Partial<OnDemandDisk['spec']> {
  const { poolName, exportName, mode, filesystem, command, upstream, source } = spec
  return {
    poolName,
    exportName,
    mode,
    ...(filesystem && { filesystem }),
    ...(source && { source }),
    // That there is one is fixed, not what it says.
    ...(command !== undefined && { command: '' }),
    ...(upstream && { upstream: { uri: '' } }),
  }
}

/** Text of ACCEPTED_ANNOTATION for a disk that has been checked and completed. */
export const acceptedText = (parsed: OnDemandDisk): string => JSON.stringify(fixedFields(parsed))

/** The first field that is another one than when the disk was accepted. */
export function changedField(disk: OnDemandDisk, parsed: OnDemandDisk): InvalidSpecError | undefined {
  const spec = acceptedSpec(disk)
  try {
    if (spec) checkTransition({ ...parsed, spec: { ...parsed.spec, ...absent, ...spec } }, parsed)
  } catch (error) {
    if (error instanceof InvalidSpecError) return error
    throw error
  }
  return undefined
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
