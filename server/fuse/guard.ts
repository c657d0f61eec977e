/**
 * A shell that waits for the end of this process, however that comes, and then unmounts what it left. A process that is
 * killed cannot do so by itself, and its mount would answer every call by ENOTCONN.
 */
import { spawn } from 'node:child_process'
import { MOUNT_TYPE } from './mountpoint.ts'

export interface Guard {
  /** Nothing is left to watch over. */
  release(): void
}

// Only a mount that is dead is taken away: whoever mounts something else there meanwhile keeps it. The kernel
// may need a moment until it is dead.
const SCRIPT = `trap '' HUP INT QUIT TERM
read -r word && [ "$word" = released ] && exit
for _ in 1 2 3 4 5 6 7 8 9 10; do
  last=
  while read -r _ _ _ _ point rest; do
    [ "$point" != "$2" ] || last=$rest
  done </proc/self/mountinfo
  case $last in *' - ${MOUNT_TYPE} '*) ;; *) exit ;; esac
  if [ ! -e "$1" ]; then
    [ -z "$3" ] || exec "$3" -u -z -- "$1"
    exec umount -l -- "$1"
  fi
  sleep 1
done`

/** Watches over what will be mounted at `mountpoint`. `helper`: the program that may unmount for a plain user. */
export function startGuard(mountpoint: string, helper = ''): Guard {
  const shown = mountpoint.replace(
    /[ \t\n\\]/g,
    sign => `\\${sign.charCodeAt(0).toString(8).padStart(3, '0')}`,
  )
  const child = spawn('/bin/sh', ['-c', SCRIPT, 'sh', mountpoint, shown, helper], {
    // A group of its own, so that what ends ours does not end it.
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
  })
  // Without a guard the mount is as good, until the process is killed.
  child.on('error', () => undefined)
  child.stdin?.on('error', () => undefined)
  child.unref()
  return {
    release() {
      child.stdin?.end('released\n')
    },
  }
}
