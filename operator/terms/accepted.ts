/** What is kept with a disk of what cannot be changed of it. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'

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
