/** What a process that serves a block device asks of the kernel for itself. */
import { declare } from './syscalls.ts'

const prctl = declare<[option: number, a: number, b: number, c: number, d: number]>(
  'int prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d)',
)
const PR_SET_IO_FLUSHER = 57

/**
 * Lets allocations of this thread's never wait for memory that only this process's own disk could free
 * (prctl PR_SET_IO_FLUSHER). False: the kernel is too old, or this user may not.
 */
export function becomeIoFlusher(): boolean {
  return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) === 0
}
