/**
 * File calls on plain descriptors, in the thread pool. A FileHandle is closed when it becomes garbage; its
 * number, which the data path and locks live by, would then mean whatever file is opened next.
 */
import { close, fstat, fsync, ftruncate, futimes, open } from 'node:fs'
import { promisify } from 'node:util'

export const openDescriptor = promisify(open)
export const closeDescriptor = promisify(close)
export const statDescriptor = promisify(fstat)
export const syncDescriptor = promisify(fsync)
export const truncateDescriptor = promisify(ftruncate)
export const setDescriptorTimes = promisify(futimes)
