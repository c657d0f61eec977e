import { readFile, rm } from 'node:fs/promises'
import { DirectoryError } from './errors.ts'

/** Decodes a mount point as /proc/self/mountinfo writes it (proc(5)): blanks and backslashes in octal. */
function decodeMountPoint(field: string): string {
  const bytes = field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  )
  return Buffer.from(bytes, 'latin1').toString()
}

async function hasMount(path: string): Promise<boolean> {
  const table = await readFile('/proc/self/mountinfo', 'latin1')
  return table.split('\n').some(line => {
    const mountPoint = decodeMountPoint(line.split(' ')[4] ?? '')
    return mountPoint === path || mountPoint.startsWith(`${path}/`)
  })
}

/**
 * Removes a directory and all in it. Throws EBUSY where something is mounted inside: a command may have
 * mounted the admin's own files there, and they must not be removed with the rest.
 */
export async function removeTree(path: string): Promise<void> {
  if (await hasMount(path)) {
    throw new DirectoryError('EBUSY', `${path} cannot be removed: something is still mounted in it`)
  }
  await rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 })
}
