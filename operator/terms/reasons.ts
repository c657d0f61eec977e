/** Every reason that a condition can have: the one table behind the code, its tests and docs/troubleshooting.md. */

/** What a reason stands for. */
export interface ReasonRow {
  /** What is the matter. */
  readonly meaning: string
  /** What a user can do about it; empty where it passes, or all is well. */
  readonly remedy: string
}

const row = (meaning: string, remedy = ''): ReasonRow => ({ meaning, remedy })

/** Reasons of a disk's conditions that the operator sets. */
export const DISK_REASONS = {
  Ready: row('Clients can use the disk.'),
  InvalidSpec: row(
    'The spec cannot be obeyed. The message begins with the name of the field.',
    'Correct the field. What cannot be changed needs a new disk.',
  ),
  PoolNotFound: row(
    'There is no DiskPool of the name `spec.poolName` in this namespace.',
    'Make the pool. The name cannot be changed; to use another pool make a new disk.',
  ),
  PoolInvalid: row('The spec of the pool cannot be obeyed.', 'See the condition Ready of the pool.'),
  PoolDeleting: row('The pool is being deleted and takes no new disks.', 'Use another pool.'),
  PoolNotReady: row(
    'The pool has no volume or no place for its server yet.',
    'It passes. If it does not, see the conditions of the pool.',
  ),
  ExportNameTaken: row(
    'Another disk of the pool has this export name. The message says which.',
    'Delete one of the two.',
  ),
  QuotaExceeded: row(
    'The disk does not fit into `spec.quota` of the pool.',
    'Delete a disk of the pool, or raise the quota. The disk is made as soon as it fits.',
  ),
  TooManyDisks: row(
    'The pool has as many disks as `spec.onDemand.maxDisks` allows.',
    'Delete a disk of the pool, or raise the limit. The disk is made as soon as there is a place.',
  ),
  Provisioning: row(
    'A Job makes and formats the disk.',
    'It passes. If it does not, the message says what keeps the Pod of the Job `odd-UID` from running: `kubectl get pods -l ondemanddisk.dev/disk-uid=UID`.',
  ),
  JobRefused: row(
    'The API server does not take the Job that makes the disk. The message says why. It is tried again.',
    'Correct what the message tells of: a quota of the namespace, an admission policy, a right of the operator.',
  ),
  FormatFailed: row(
    'mkfs or the command failed. The message has the last line that it wrote to standard error, and when it is tried again.',
    'Correct what the line tells of: a disk that is too small, a full volume, a command that is wrong.',
  ),
  Copying: row('The disk is being made as a copy of its source.', 'It passes.'),
  CopyFailed: row(
    'The copy could not be made. The message says why. It is tried again; nothing is left over.',
    'Correct what the message tells of: a full volume, a source that is not served.',
  ),
  SourceNotFound: row(
    'There is no object of the kind and name that `spec.source` gives in this namespace.',
    'Make it, or make a new disk with another source.',
  ),
  SourceNotReady: row(
    'The source is not ready, is being deleted, or has no data of its own. The message says which.',
    'See the conditions of the source.',
  ),
  Formatted: row('The disk has been made. It will never be formatted again.'),
  SpareTaken: row('The disk has been made of a spare of the pool.'),
  NothingToMake: row('A temporary disk, or one with upstream, has no file that would have to be made.'),
  WaitingForServer: row(
    'The disk is made; the pool’s server does not serve it yet.',
    'It passes. If it does not, see the condition ServerReady of the pool.',
  ),
  NameTaken: row(
    'An object that is not the operator’s has the name that it needs. The message says which.',
    'Delete or rename that object.',
  ),
  StoppingJob: row('The disk is being deleted, and the Job that makes it is being stopped first.'),
  Deleting: row(
    'The disk is being deleted. The message says what it waits for: clients that use it, or the pool’s server.',
    'Disconnect the clients, or disconnect them by `kubectl annotate odd NAME ondemanddisk.dev/force-delete=true`.',
  ),
} as const satisfies Record<string, ReasonRow>

/** Reasons of a pool's conditions. */
export const POOL_REASONS = {
  Ready: row('The pool serves its disks.'),
  InvalidSpec: DISK_REASONS.InvalidSpec,
  NameTaken: DISK_REASONS.NameTaken,
  ObjectRefused: row(
    'The API server does not take an object that the pool is made of. The message says which, and why.',
    'Correct what the message tells of: a quota of the namespace, an admission policy, a right of the operator.',
  ),
  Bound: row('The claim is bound to a volume.'),
  ClaimNotFound: row(
    'There is no PersistentVolumeClaim of the name `spec.storage.claimName`.',
    'Make the claim.',
  ),
  ClaimPending: row(
    'The claim is not bound to a volume yet.',
    'If it does not pass, see `kubectl describe pvc`: no default storage class, no free volume.',
  ),
  ClaimLost: row('The volume of the claim is gone.', 'Restore the volume, or delete the claim and the pool.'),
  ClaimDeleting: row(
    'The claim is being deleted; with it the data of all disks goes.',
    'A deletion cannot be taken back. Copy the data while the server runs.',
  ),
  Serving: row('The server is running.'),
  ServerStarting: row('The server’s Pod is starting.', 'It passes.'),
  ServerNotRunning: row(
    'The server’s Pod does not run. The message says why: no node for it, no image, a container that fails, no Pod at all.',
    'See `kubectl describe pod` and `kubectl logs`, or what the message tells to see.',
  ),
  SparesFailed: row(
    'Spares cannot be made. The message has the last line that mkfs or the command wrote to standard error.',
    'Correct `spec.onDemand.template`, or free space on the volume.',
  ),
  Deleting: row(
    'The pool is being deleted and waits for its disks. The message says which.',
    'Delete the disks.',
  ),
} as const satisfies Record<string, ReasonRow>

/** Reasons of a disk's conditions that the agent of its pool sets. */
export const AGENT_REASONS = {
  Serving: row('Clients can connect to the disk.'),
  DataMissing: row(
    'The disk has been formatted, and its file is missing on the pool’s volume. It is never formatted again.',
    'Restore the file of the disk’s uid in disks/ of the volume, or delete the disk.',
  ),
  Refused: row(
    'The pool’s server does not give the disk to clients. The message says why.',
    'Correct what the message tells of.',
  ),
  InUse: row(
    'The disk is being deleted, and clients have it open. The message says which.',
    DISK_REASONS.Deleting.remedy,
  ),
  Removed: row('The disk is deleted: it is not served any more, and its data is gone.'),
  Retained: row('The disk is deleted; its data is kept in retained/ of the pool’s volume.'),
  Growing: row('The disk, or the filesystem on it, is growing.'),
  WaitingForClients: row(
    'The disk has grown; its filesystem grows when no client has the disk open.',
    'Disconnect the clients.',
  ),
  Resized: row('The disk has the size that its spec asks for.'),
  QuotaExceeded: row(
    'The disk cannot grow, since the pool’s `spec.quota` has no room for it.',
    'Delete a disk of the pool, or raise the quota.',
  ),
  TooManyDisks: DISK_REASONS.TooManyDisks,
  Copied: row('The disk has been made as a copy of its source. It will never be formatted.'),
  CopyFailed: DISK_REASONS.CopyFailed,
  Formatted: DISK_REASONS.Formatted,
  SpareTaken: DISK_REASONS.SpareTaken,
} as const satisfies Record<string, ReasonRow>

/** Reasons of a snapshot's conditions, by the operator and the agent. */
export const SNAPSHOT_REASONS = {
  Ready: row('Disks can be made of the snapshot.'),
  InvalidSpec: DISK_REASONS.InvalidSpec,
  DiskNotFound: row(
    'There is no OnDemandDisk of the name `spec.diskName` in this namespace.',
    'Make the disk.',
  ),
  DiskNotReady: row(
    'The disk is not made yet, is being deleted, or has no data of its own (Temporary, upstream). The message says which.',
    'See the conditions of the disk.',
  ),
  PoolNotReady: row(
    'The pool of the disk is missing, not valid, or being deleted.',
    'See the conditions of the pool.',
  ),
  QuotaExceeded: row(
    'The snapshot does not fit into `spec.quota` of the pool, of which it takes the size of its disk.',
    'Delete a disk or a snapshot, or raise the quota. The snapshot is taken as soon as it fits.',
  ),
  Accepted: row('The snapshot has a place in its pool.'),
  WaitingForServer: row(
    'The agent of the pool has not begun yet.',
    'It passes. If it does not, see the condition ServerReady of the pool.',
  ),
  Copying: row('The snapshot is being taken.', 'It passes.'),
  CopyFailed: row(
    'The snapshot could not be taken. The message says why. It is tried again; nothing is left over.',
    'Correct what the message tells of: a full volume, a disk that is not served.',
  ),
  Taken: row('The snapshot has been taken. It never changes.'),
  DataMissing: row(
    'The snapshot has been taken, and its file is missing on the pool’s volume.',
    'Restore the file of its uid in snapshots/ of the volume, or delete the snapshot.',
  ),
  InUse: row(
    'The snapshot is being deleted, and disks are being made of it. The message says which.',
    'It passes.',
  ),
  Deleting: row('The snapshot is being deleted. The message says what it waits for.', 'It passes.'),
  Removed: row('The snapshot is deleted, and its data is gone.'),
} as const satisfies Record<string, ReasonRow>

export type SnapshotReason = keyof typeof SNAPSHOT_REASONS
export type AgentReason = keyof typeof AGENT_REASONS
export type DiskReason = keyof typeof DISK_REASONS
export type PoolReason = keyof typeof POOL_REASONS
