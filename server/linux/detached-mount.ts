/**
 * A mount that is in nobody's tree (fsopen(2), fsmount(2), Linux 5.2): only its descriptor leads to it, nobody
 * can unmount it or go by its path, and it is gone with the last process that uses it.
 */
import { closeSync } from 'node:fs'
import { SystemCallError } from './errno.ts'
import { addressOf, lastErrno, libc } from './syscalls.ts'

// Not the functions of the C library, which has them since glibc 2.36 only. The numbers are those of all processors.
const SYS_FSOPEN = 430
const SYS_FSCONFIG = 431
const SYS_FSMOUNT = 432
const syscall = libc.func(
  'int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e)',
) as unknown as (number: number, a: number, b: number, c: number, d: number, e: number) => number

const CLOEXEC = 1
const FSCONFIG_SET_FLAG = 0
const FSCONFIG_SET_STRING = 1
const FSCONFIG_CMD_CREATE = 6
const MOUNT_ATTR_NOSUID_NODEV_NOEXEC_NOATIME = 0x2 | 0x4 | 0x8 | 0x10

/**
 * Makes the mount and returns its descriptor, an O_PATH one of its root.
 * @param options as in `mount -o`: those with a value, and flags as `true`
 * @throws SystemCallError
 */
export function mountDetached(type: string, options: Readonly<Record<string, string | true>>): number {
  // Strings stay alive until the call is over by being held here.
  const text = (value: string) => Buffer.from(`${value}\0`)
  const name = text(type)
  const context = syscall(SYS_FSOPEN, addressOf(name), CLOEXEC, 0, 0, 0)
  if (context < 0) throw new SystemCallError('fsopen', lastErrno(), type)
  try {
    for (const [option, value] of Object.entries(options)) {
      const key = text(option)
      const content = text(value === true ? '' : value)
      const command = value === true ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING
      const address = value === true ? 0 : addressOf(content)
      if (syscall(SYS_FSCONFIG, context, command, addressOf(key), address, 0) < 0) {
        throw new SystemCallError('fsconfig', lastErrno(), option)
      }
    }
    if (syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, 0, 0, 0) < 0) {
      throw new SystemCallError('fsconfig(CREATE)', lastErrno(), type)
    }
    const root = syscall(SYS_FSMOUNT, context, CLOEXEC, MOUNT_ATTR_NOSUID_NODEV_NOEXEC_NOATIME, 0, 0)
    if (root < 0) throw new SystemCallError('fsmount', lastErrno(), type)
    return root
  } finally {
    closeSync(context)
  }
}
