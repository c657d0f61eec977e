import { fstatSync } from 'node:fs'
import { readFile } from 'node:fs/promises'

/**
 * Path of a unix socket that somebody else has bound; an abstract one begins with NUL. Undefined: the kernel does not tell. Its
 * table has a line for each: `Num RefCount Protocol Flags Type St Inode Path` (proc_net(5)).
 */
export async function unixSocketPath(descriptor: number): Promise<string | undefined> {
  const inode = `${fstatSync(descriptor).ino}`
  const table = await readFile('/proc/net/unix', 'utf8').catch(() => '')
  for (const line of table.split('\n')) {
    const [, found, path] = /^(?:\S+ +){6}(\d+) (.+)$/.exec(line) ?? []
    if (found === inode) return path?.replace(/^@/, '\0')
  }
  return undefined
}
