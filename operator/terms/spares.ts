/** Disks that are formatted before anyone asks for them. */
import { createHash } from 'node:crypto'
import type { DiskTemplate } from '../../crds/diskpool.ts'

/**
 * Begins the name of every spare made from this template, `KEY-NUMBER`: 16 hexadecimal digits over what a disk is
 * made of. Spares with another key are of a template that is gone.
 */
export function spareKey({ size, filesystem, command, variables }: DiskTemplate): string {
  const made = {
    size,
    filesystem: filesystem && [filesystem.type, filesystem.label ?? '', filesystem.mkfsOptions ?? []],
    command,
    variables: variables && Object.entries(variables).sort(([a], [b]) => (a < b ? -1 : 1)),
  }
  return createHash('sha256').update(JSON.stringify(made)).digest('hex').slice(0, 16)
}
