/** The manifest of a disk: what its server is to know of the object. */
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'

/**
 * The text of a manifest: the object without its status, and without what changes though the disk does not. `size`
 * in bytes takes the place of the spec's.
 */
export function manifestText({ apiVersion, kind, metadata, spec }: OnDemandDisk, size?: number): string {
  const { name, namespace, uid, generation } = metadata
  return JSON.stringify({
    apiVersion,
    kind,
    metadata: { name, namespace, uid, generation },
    spec: size === undefined ? spec : { ...spec, size },
  })
}

/** The same manifest for a disk that new clients are not to get any more. */
export function deletingManifest(text: string, deletionTimestamp: string): string {
  const object = JSON.parse(text) as { readonly metadata: object }
  return JSON.stringify({ ...object, metadata: { ...object.metadata, deletionTimestamp } })
}
