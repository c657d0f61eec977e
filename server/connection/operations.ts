/** Requests that carry no data and always go through the backend: FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS. */
import { CMD, CMD_FLAG } from '../protocol/constants.ts'
import { FRAMING } from '../protocol/transmission.ts'
import { encodeBlockStatus, MAX_EXTENTS } from './block-status.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { follow, type Request } from './request.ts'

/** What WRITE_ZEROES asks of a backend, indexed by its flags NO_HOLE and FAST_ZERO. */
const ZERO_FLAGS = [
  { mayPunch: true, fast: false },
  { mayPunch: false, fast: false },
  { mayPunch: true, fast: true },
  { mayPunch: false, fast: true },
] as const

/** Starts the operation of a request, which completes by itself. */
export function startOperation(disk: OpenedDisk, request: Request): void {
  const { backend, handle } = disk
  const { type, flags, offset, length } = request
  const fua = request.fua && disk.capabilities.fuaIsNative
  try {
    switch (type) {
      case CMD.FLUSH:
        follow(backend.flush(handle, request), request)
        return
      case CMD.TRIM:
        follow(backend.trim(handle, length, offset, request, fua), request)
        return
      case CMD.CACHE:
        follow(backend.cache(handle, length, offset, request), request)
        return
      case CMD.WRITE_ZEROES: {
        const index = (flags & CMD_FLAG.NO_HOLE ? 1 : 0) + (flags & CMD_FLAG.FAST_ZERO ? 2 : 0)
        follow(
          backend.zero(handle, length, offset, ZERO_FLAGS[index] ?? ZERO_FLAGS[0], request, fua),
          request,
        )
        return
      }
      default:
        void tellStatus(disk, request)
    }
  } catch (error) {
    request.complete(error)
  }
}

async function tellStatus({ backend, handle }: OpenedDisk, request: Request): Promise<void> {
  const { offset, length, flags, framing } = request
  const onlyOne = (flags & CMD_FLAG.REQ_ONE) !== 0
  try {
    const extents = await backend.extents(handle, length, offset, onlyOne ? 1 : MAX_EXTENTS)
    const toDiskEnd = backend.getSize(handle) - offset
    request.status = encodeBlockStatus(extents, length, toDiskEnd, onlyOne, framing === FRAMING.EXTENDED)
    request.complete()
  } catch (error) {
    request.complete(error)
  }
}
