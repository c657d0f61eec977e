/** The manifest of a disk: what its server is to know of the object. */
import { NO_FILESYSTEM } from '../../crds/filesystem-label.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'

/**
 * The text of a manifest: the object without its status, and without what changes though the disk does not. `size`
 * in bytes takes the place of the spec's.
 */
export function manifestText(disk: OnDemandDisk, size?: number): string {
  const { apiVersion, kind, metadata } = disk
  const { name, namespace, uid, generation } = metadata
  const spec = specOf(disk)
  return JSON.stringify({
    apiVersion,
    kind,
    metadata: { name, namespace, uid, generation },
    spec: size === undefined ? spec : { ...spec, size },
  })
}

/** A copy has the filesystem of its source, and to the server it is a disk like any other. */
function specOf({ spec, status }: OnDemandDisk): OnDemandDisk['spec'] {
  const { source, ...rest } = spec
  return source === undefined ? spec : { ...rest, filesystem: { type: status?.filesystem ?? NO_FILESYSTEM } }
}

/** The same manifest for a disk that new clients are not to get any more. */
export function deletingManifest(text: string, deletionTimestamp: string): string {
  const object = JSON.parse(text) as { readonly metadata: object }
  return JSON.stringify({ ...object, metadata: { ...object.metadata, deletionTimestamp } })
}
