import type { Outcomes } from './three-servers.ts'

/** What the three servers answer to one attempt, where it is not the same. */
export interface Difference {
  readonly outcomes: Outcomes
  readonly why: string
}

/** Where we do otherwise than nbdkit 1.32 or qemu-nbd 7.2, and why. */
export const DIFFERENCES: Readonly<Record<string, Difference>> = {
  'unknown option with 64 KiB and a byte': {
    outcomes: { ours: 'closed', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'No option needs more than 64 KiB; nbdkit and qemu-nbd take up to 64 and 32 MiB of it.',
  },
  '40 unknown options': {
    outcomes: { ours: 'UNSUP', nbdkit: 'UNSUP, closed', 'qemu-nbd': 'UNSUP' },
    why: '256 options are allowed, so that a client may ask for many names; nbdkit allows 32.',
  },
  '300 unknown options': {
    outcomes: { ours: 'UNSUP, closed', nbdkit: 'UNSUP, closed', 'qemu-nbd': 'UNSUP' },
    why: 'A handshake has to end. qemu-nbd sets no bound.',
  },
  'another option than EXPORT_NAME without fixed newstyle': {
    outcomes: { ours: 'closed', nbdkit: 'INVALID', 'qemu-nbd': 'closed' },
    why: "Without it the server must hang up; nbdkit answers, and leaves the option's data to be read as the next one.",
  },
  'LIST twice': {
    outcomes: {
      ours: 'SERVER, ACK, SERVER, ACK',
      nbdkit: 'SERVER, ACK, INVALID',
      'qemu-nbd': 'SERVER, ACK, SERVER, ACK',
    },
    why: 'Nothing forbids it; the bound on options bounds this too.',
  },
  'STRUCTURED_REPLY twice': {
    outcomes: { ours: 'ACK', nbdkit: 'ACK', 'qemu-nbd': 'ACK, INVALID' },
    why: 'Nothing forbids it, and it changes nothing.',
  },
  EXTENDED_HEADERS: {
    outcomes: { ours: 'ACK', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'Neither of these versions knows it.',
  },
  'EXTENDED_HEADERS with data': {
    outcomes: { ours: 'INVALID', nbdkit: 'UNSUP', 'qemu-nbd': 'UNSUP' },
    why: 'Neither of these versions knows it.',
  },
  'INFO with the name ../x': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'Names are checked before a backend sees them; nbdkit leaves that to its plugin, which here has one disk for all names.',
  },
  'INFO with a name that is no UTF-8': {
    outcomes: { ours: 'INVALID', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'Names are UTF-8 by the protocol; nbdkit does not look, and qemu-nbd has no such export.',
  },
  'INFO with a name of 4096 bytes': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'A name has at most 255 bytes here; the plugin of nbdkit has one disk for all names.',
  },
  'INFO with a name of 256 bytes': {
    outcomes: { ours: 'UNKNOWN', nbdkit: 'INFO, ACK', 'qemu-nbd': 'UNKNOWN' },
    why: 'As above.',
  },
  'LIST_META_CONTEXT before STRUCTURED_REPLY': {
    outcomes: { ours: 'INVALID', nbdkit: 'META_CONTEXT, ACK', 'qemu-nbd': 'META_CONTEXT, ACK' },
    why: 'Contexts are of no use without it, and the protocol lets a server say so.',
  },
  'SET_META_CONTEXT with bytes behind its end': {
    outcomes: {
      ours: 'ACK, INVALID',
      nbdkit: 'ACK, META_CONTEXT, ACK',
      'qemu-nbd': 'ACK, META_CONTEXT, ACK, closed',
    },
    why: 'Malformed is INVALID. nbdkit ignores the rest; qemu-nbd reads it as the next option.',
  },
  'WRITE past the end': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'WRITE at 2^64-1': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'WRITE_ZEROES past the end': {
    outcomes: { ours: 'ENOSPC', nbdkit: 'ENOSPC', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for ENOSPC.',
  },
  'READ of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'The protocol leaves it open; nothing is done without fail.',
  },
  'READ of no bytes, structured': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'WRITE of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'ENOSPC', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'TRIM of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'CACHE of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'WRITE_ZEROES of no bytes': {
    outcomes: { ours: 'ok', nbdkit: 'ENOSPC', 'qemu-nbd': 'ok' },
    why: 'As above.',
  },
  'READ of 32 MiB and a byte': {
    outcomes: { ours: 'EINVAL', nbdkit: 'ok', 'qemu-nbd': 'EINVAL' },
    why: '32 MiB is the maximum that is announced; nbdkit announces none and takes 64 MiB.',
  },
  'WRITE of 32 MiB and a byte': {
    outcomes: { ours: 'EINVAL', nbdkit: 'ok', 'qemu-nbd': 'closed' },
    why: 'As above; what is too long is read and dropped, so that the client can go on.',
  },
  'FLUSH with offset and length': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'ok' },
    why: 'They mean nothing there, and refusing to make data durable for that would help nobody.',
  },
  'FLUSH past the end': {
    outcomes: { ours: 'ok', nbdkit: 'EINVAL', 'qemu-nbd': 'EINVAL' },
    why: 'As above.',
  },
  'WRITE, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'WRITE past the end, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'TRIM, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
  'WRITE_ZEROES, read-only': {
    outcomes: { ours: 'EPERM', nbdkit: 'EPERM', 'qemu-nbd': 'EINVAL' },
    why: 'The protocol asks for EPERM.',
  },
}
