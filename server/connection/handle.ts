/** Sockets whose descriptor is used beside Node. */
import type { Socket } from 'node:net'

/** The part of a socket's handle that the channel uses; `fd` is there for TCP and unix sockets. */
export interface DescriptorHandle {
  readonly fd: number
  close(): void
}

/** Takes the handle of an accepted, paused socket away from it. */
export function takeHandle(accepted: Socket): DescriptorHandle | undefined {
  const holder = accepted as unknown as { _handle: DescriptorHandle | null }
  const handle = holder._handle
  holder._handle = null
  return handle === null || handle.fd < 0 ? undefined : handle
}
