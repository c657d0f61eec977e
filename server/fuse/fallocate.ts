/** What fallocate(2) asks of the file, by QEMU's rules: which modes there are, and what they do at its end. */
import { ERRNO } from '../linux/errno.ts'
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE } from '../linux/syscalls.ts'

/** What is to be done. Offsets and lengths are bytes. */
export type FallocatePlan =
  | { readonly kind: 'refuse'; readonly errno: number }
  | { readonly kind: 'nothing' }
  | { readonly kind: 'allocate'; readonly offset: number; readonly length: number }
  | {
      readonly kind: 'zero'
      readonly offset: number
      readonly length: number
      readonly punch: boolean
      /** The file is to be made so long first. */
      readonly grownTo?: number
    }

const refuse = (errno: number): FallocatePlan => ({ kind: 'refuse', errno })

/** Plans a fallocate of a file of `size` bytes. */
export function planFallocate(mode: number, offset: number, length: number, size: number): FallocatePlan {
  const end = offset + length
  if (!Number.isSafeInteger(end)) return refuse(ERRNO.EFBIG)
  const keepsSize = (mode & FALLOC_FL_KEEP_SIZE) !== 0
  const inside = Math.max(0, Math.min(length, size - offset))
  switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
      // What exists cannot be allocated without writing to it, and nothing can be allocated behind the end.
      if (keepsSize || offset < size) return refuse(ERRNO.EOPNOTSUPP)
      return { kind: 'allocate', offset, length }
    case FALLOC_FL_PUNCH_HOLE:
      if (!keepsSize) return refuse(ERRNO.EINVAL)
      return inside === 0 ? { kind: 'nothing' } : { kind: 'zero', offset, length: inside, punch: true }
    case FALLOC_FL_ZERO_RANGE:
      if (!keepsSize && end > size) return { kind: 'zero', offset, length, punch: false, grownTo: end }
      return inside === 0 ? { kind: 'nothing' } : { kind: 'zero', offset, length: inside, punch: false }
    default:
      return refuse(ERRNO.EOPNOTSUPP)
  }
}
