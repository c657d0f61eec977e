/** What all Pods of a pool have in common: Pod Security "restricted", the volume, where they run. */
import type { DiskPool } from '../../crds/diskpool.ts'
import { VOLUME_PATH } from '../terms/names.ts'
import type { PodSettings } from './settings.ts'

/** The user that owns the disks, of the image. */
const USER = 10809

/** Fields of a Pod's spec. */
export function commonPodSpec({ spec: { server } }: DiskPool, { imagePullSecrets = [] }: PodSettings) {
  const { nodeSelector, tolerations } = server
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    securityContext: {
      runAsNonRoot: true,
      runAsUser: USER,
      runAsGroup: USER,
      fsGroup: USER,
      // Else every start of a Pod would visit every disk.
      fsGroupChangePolicy: 'OnRootMismatch',
      seccompProfile: { type: 'RuntimeDefault' },
    },
    ...(nodeSelector && { nodeSelector }),
    ...(tolerations.length > 0 && { tolerations }),
    ...(imagePullSecrets.length > 0 && { imagePullSecrets: imagePullSecrets.map(name => ({ name })) }),
  }
}

/** Fields of a container. */
export function commonContainer({ image, imagePullPolicy }: PodSettings) {
  return {
    image,
    ...(imagePullPolicy && { imagePullPolicy }),
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
    },
  }
}

export const POOL_MOUNT = { name: 'pool', mountPath: VOLUME_PATH }

/** The claim of the pool's disks, as a volume of a Pod. */
export function poolVolume(claimName: string) {
  return { name: 'pool', persistentVolumeClaim: { claimName } }
}
