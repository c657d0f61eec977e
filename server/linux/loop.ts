/** Loop devices (linux/loop.h). Calls that may wait for the file behind the device go off the event loop. */
import { SystemCallError } from './errno.ts'
import { addressOf, type CallDone, declare, lastErrno } from './syscalls.ts'

const ioctl = declare<[fd: number, request: number, argument: number]>(
  'int ioctl(int fd, uint64_t request, int64_t argument)',
)

const LOOP_CONFIGURE = 0x4c0a
const LOOP_SET_CAPACITY = 0x4c07
const LOOP_CTL_GET_FREE = 0x4c82
const LO_FLAGS_READ_ONLY = 1
const LO_FLAGS_AUTOCLEAR = 4
const LO_FLAGS_DIRECT_IO = 16

/** Number of a loop device that is free now; another process may be quicker to take it. `control`: /dev/loop-control. */
export function freeLoopDevice(control: number): number {
  const number = ioctl(control, LOOP_CTL_GET_FREE, 0)
  if (number < 0) throw new SystemCallError('ioctl(LOOP_CTL_GET_FREE)', lastErrno())
  return number
}

/** Gives the device the size that the file behind it has now. @throws SystemCallError */
export function refreshLoopSize(device: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const done: CallDone = (error, result) => {
      if (error !== null) reject(error)
      else if (result < 0) reject(new SystemCallError('ioctl(LOOP_SET_CAPACITY)', lastErrno(), ''))
      else resolve()
    }
    ioctl.async(device, LOOP_SET_CAPACITY, 0, done)
  })
}

/** What the kernel reads now, so that it is not collected. */
const underWay = new Set<Buffer>()

/**
 * Puts a file behind a loop device, with direct I/O, until the device is closed by the last who has it open.
 * `name`: at most 63 bytes that `losetup` can show.
 * @throws SystemCallError; EBUSY: the device has been taken meanwhile
 */
export function configureLoop(device: number, file: number, readOnly: boolean, name: string): Promise<void> {
  // struct loop_config: fd, block_size, struct loop_info64 (232 bytes), 64 bytes of nothing.
  const config = Buffer.alloc(304)
  config.writeUInt32LE(file, 0)
  const info = 8
  const flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | (readOnly ? LO_FLAGS_READ_ONLY : 0)
  config.writeUInt32LE(flags, info + 52)
  config.write(name, info + 56, 63)
  return new Promise((resolve, reject) => {
    const done: CallDone = (error, result) => {
      if (error !== null) reject(error)
      // `config` is named here so that it lives until the call is over.
      else if (result < 0)
        reject(new SystemCallError('ioctl(LOOP_CONFIGURE)', lastErrno(), `${config.length}`))
      else resolve()
    }
    underWay.add(config)
    ioctl.async(device, LOOP_CONFIGURE, addressOf(config), done)
  })
}
