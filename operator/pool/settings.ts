/** What the operator was told of the Pods that it makes. */
export interface PodSettings {
  /** Image with both programs. */
  readonly image: string
  /** Default: as Kubernetes has it, by the image's tag. */
  readonly imagePullPolicy?: 'Always' | 'IfNotPresent' | 'Never' | undefined
  /** Names of Secrets in the pool's namespace. */
  readonly imagePullSecrets?: readonly string[] | undefined
  /** ClusterRole that lets an agent see and report its pool's disks. */
  readonly agentClusterRole: string
}
