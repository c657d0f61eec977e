/** /proc/PID/mountinfo, as proc(5) describes it. */
import { readFile } from 'node:fs/promises'

/** One mount. */
export interface Mount {
  /** `major:minor` of the file system, as the kernel writes it. */
  readonly device: string
  /** What of the file system is mounted there: `/`, or a file or directory of it (a bind mount). */
  readonly root: string
  readonly mountpoint: string
  /** Of this mount; that its file system can only be read is another matter. */
  readonly readOnly: boolean
  /** With its subtype: `fuse.ondemand-disk`. */
  readonly type: string
  readonly source: string
}

/** Blanks, backslashes and # stand in octal. */
const unescaped = (text: string) =>
  Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    'latin1',
  ).toString('utf8')

/** Reads the lines of a mountinfo that was read as latin1, so that each byte of a name stays one character. */
export function parseMountinfo(text: string): Mount[] {
  const mounts: Mount[] = []
  for (const line of text.split('\n')) {
    const [left = '', right = ''] = line.split(' - ')
    const [, , device, root, mountpoint, options = ''] = left.split(' ')
    const [type, source] = right.split(' ')
    if (device === undefined || root === undefined || mountpoint === undefined) continue
    if (type === undefined || source === undefined) continue
    mounts.push({
      device,
      root: unescaped(root),
      mountpoint: unescaped(mountpoint),
      readOnly: options.split(',').includes('ro'),
      type,
      source: unescaped(source),
    })
  }
  return mounts
}

/** The mounts that this process sees, in the order in which they were made. */
export async function readMounts(): Promise<Mount[]> {
  return parseMountinfo(await readFile('/proc/self/mountinfo', 'latin1'))
}
