/**
 * Processes that outlive the pod of the driver, and its image. The root of such a process is a folder of the host, with a
 * copy of the program and nothing else but /dev, /proc and /sys. Its cgroup stands beside those of the pods. The pod has
 * to be privileged, to share the host's processes and network, and to have the host's /dev and /sys/fs/cgroup.
 */
import { createHash } from 'node:crypto'
import { chmod, cp, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { run } from './tool.ts'
import type { Launch } from './volume.ts'

/** Where the driver's own program is: `crds`, `server` and what they need. */
const PROGRAM = join(import.meta.dirname, '../../..')
const PARTS = ['package.json', 'crds', 'server', 'node_modules']
/** What a process is started with, beside Node.js. The host may have none of it, or another C library. */
const TOOLS = ['sh', 'umount']
/** Where the rest of the system is for it. */
const MOUNTPOINTS = ['dev', 'proc', 'sys', 'old']

/**
 * Moves the shell into the cgroup `ondemand-disk` of the host, by version 1 of each kind, and makes the folder its root. A
 * kind that takes no process into a new group (cpuset has no processors there) has it in its root.
 */
const LEAVE_POD = `
set -e
groups=/sys/fs/cgroup
[ -e $groups/cgroup.procs ] || groups="$groups/*"
for group in $groups; do
  [ -e "$group/cgroup.procs" ] || continue
  mkdir -p "$group/ondemand-disk"
  echo 0 2>/dev/null >"$group/ondemand-disk/cgroup.procs" || echo 0 >"$group/cgroup.procs"
done
cd "$1"
shift
exec unshare --mount --propagation private -- sh -ec '
  mount --bind . .
  cd "$PWD"
  for part in dev proc sys; do mount --rbind "/$part" "./$part"; done
  pivot_root . old
  exec "$@"' sh "$@"`

/** Lets go of what was the root before. */
const FORGET_POD = `
/lib/ld.so --library-path /lib /bin/umount -l /old
export NODE_COMPILE_CACHE=/cache
exec "$@"`

/** The command of a copied program, from its new root. */
const copied = (name: string) => ['/lib/ld.so', '--library-path', '/lib', `/bin/${name}`]

/** The command by which a program of the folder runs there. */
function launchFrom(home: string): Launch {
  return (program, args) => [
    'sh',
    ...['-c', LEAVE_POD, 'sh', home],
    ...[...copied('sh'), '-ec', FORGET_POD, 'sh'],
    ...[...copied('node'), program.slice(PROGRAM.length), ...args],
  ]
}

/**
 * Copies the program to a folder below `folder`, which is a folder of the host at the same path, unless it is there, and
 * removes copies of other versions that no process runs any more.
 */
export async function installOutside(folder: string): Promise<Launch> {
  const home = join(folder, await versionOf(PROGRAM))
  const names = await readdir(folder).catch((): string[] => [])
  if (!names.includes(basename(home))) await install(home)
  // Pools have names of the cluster, which the host does not know.
  await writeFile(join(home, 'etc/resolv.conf.new'), await readFile('/etc/resolv.conf'))
  await rename(join(home, 'etc/resolv.conf.new'), join(home, 'etc/resolv.conf'))
  const used = await rootsInUse()
  for (const name of names) {
    const other = join(folder, name)
    if (other !== home && !used.has((await stat(other)).ino))
      await rm(other, { recursive: true, force: true })
  }
  return launchFrom(home)
}

/** Tells programs apart by all that they consist of. */
async function versionOf(program: string): Promise<string> {
  const hash = createHash('sha256')
    .update(process.version)
    .update(process.arch)
    .update(await readFile(import.meta.filename))
  const files = [
    'package.json',
    ...(await sourcesIn(program, 'crds')),
    ...(await sourcesIn(program, 'server')),
  ]
  for (const file of files.sort()) hash.update(file).update(await readFile(join(program, file)))
  return hash.digest('hex').slice(0, 16)
}

async function sourcesIn(program: string, part: string): Promise<string[]> {
  const names = await readdir(join(program, part), { recursive: true })
  return names.filter(name => /\.[jt]s$/.test(name)).map(name => join(part, name))
}

async function install(home: string): Promise<void> {
  const staging = `${home}.new`
  await rm(staging, { recursive: true, force: true })
  for (const name of ['bin', 'lib', 'etc', 'cache', ...MOUNTPOINTS])
    await mkdir(join(staging, name), { recursive: true })
  for (const part of PARTS)
    await cp(join(PROGRAM, part), join(staging, part), { recursive: true, dereference: true })
  await copyProgram(process.execPath, 'node', staging)
  for (const name of TOOLS) {
    const { stdout } = await run('sh', ['-c', 'command -v "$0"', name])
    await copyProgram(stdout.trim(), name, staging)
  }
  await rename(staging, home)
}

/** A program, and by their names the libraries that it is linked with. */
async function copyProgram(path: string, name: string, staging: string): Promise<void> {
  await cp(path, join(staging, 'bin', name), { dereference: true })
  await chmod(join(staging, 'bin', name), 0o755)
  const { stdout } = await run('ldd', [path])
  for (const [, soname = '', found] of stdout.matchAll(/^\s+(\S+)(?: => (\S+))? \(0x/gm)) {
    if (found === undefined && !soname.startsWith('/')) continue
    const target = found === undefined || /\/ld-linux/.test(soname) ? 'ld.so' : basename(soname)
    await cp(found ?? soname, join(staging, 'lib', target), { dereference: true })
  }
}

/** Inodes of the folders that are the root of some process. */
async function rootsInUse(): Promise<ReadonlySet<number>> {
  const ids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const roots = await Promise.all(ids.map(id => stat(`/proc/${id}/root/`).catch(() => undefined)))
  return new Set(roots.flatMap(root => (root === undefined ? [] : [root.ino])))
}
