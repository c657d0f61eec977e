/**
 * Connects disks of the kernel's NBD driver again when their server was lost: the driver keeps what waits, and needs
 * somebody to make the connection. Disks that are attached by FUSE do so by themselves.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { attached, watch } from '../../../server/attach/attach.ts'
import { type KubeLog, reasonOf } from '../../kube/log.ts'
import { TAG_PREFIX } from './volume.ts'

/** Disks come and go by calls, and by other drivers on this node: so often, in ms, is looked which there are. */
const LOOK_MS = 5000

/** Watches over all volumes until it is stopped. */
export function watchVolumes(log: KubeLog): { stop(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping
  const watched = new Map<string, { readonly end: AbortController; readonly ended: Promise<void> }>()

  async function look(): Promise<void> {
    const disks = (await attached()).filter(({ via, tag }) => via === 'nbd' && tag?.startsWith(TAG_PREFIX))
    for (const [device, { end }] of watched) if (!disks.some(disk => disk.device === device)) end.abort()
    for (const disk of disks) {
      const { device } = disk
      if (watched.has(device)) continue
      const end = new AbortController()
      const events = {
        onLost: () => log.info({ device }, 'Lost the NBD server; waiting for it'),
        onReconnected: () => log.info({ device }, 'The NBD server is back'),
        onFailure: (error: Error) => log.debug({ device, ...reasonOf(error) }, 'Cannot connect'),
      }
      const ended = watch(disk, events, AbortSignal.any([signal, end.signal]))
        .catch((error: unknown) => log.error({ device, ...reasonOf(error) }, 'Cannot watch a device'))
        .finally(() => watched.delete(device))
      watched.set(device, { end, ended })
    }
  }

  const looking = (async () => {
    while (!signal.aborted) {
      await look().catch((error: unknown) => log.error(reasonOf(error), 'Cannot look for devices'))
      await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined)
    }
  })()
  return {
    async stop() {
      stopping.abort()
      await looking
      await Promise.all([...watched.values()].map(({ ended }) => ended))
    },
  }
}
