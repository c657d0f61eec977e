/** Texts of `--help` for the commands that make disks files and devices of this machine. */
import {
  ATTACH_OPTIONS,
  ATTACHED_OPTIONS,
  DETACH_OPTIONS,
  FUSE_OPTIONS,
  GROW_OPTIONS,
} from './disk-option-tables.ts'
import type { CommandHelp } from './help.ts'

const FUSE_INTRODUCTION = `Usage: ondemand-disk fuse SOURCE MOUNTPOINT [OPTION]...

Presents SOURCE, an image file or the URI of an NBD export, as one raw file that
is mounted over the existing file MOUNTPOINT, until it is unmounted or SIGTERM
comes. losetup and mount -o loop work on it.

TIME is a number of seconds, or one with ms, s, m or h.
`

const FUSE_EXAMPLES = `Examples:
  Look into a disk on the server, without a client:
      touch /tmp/alice
      ondemand-disk fuse /srv/disks/alice /tmp/alice &
      mount -o loop,ro /tmp/alice /mnt
  Write to a disk that is elsewhere, and give its server 2 minutes:
      ondemand-disk fuse nbd://server/alice /tmp/alice --writable \\
          --dead-after 2m
`

const ATTACH_INTRODUCTION = `Usage: ondemand-disk attach URI [OPTION]...

Makes the NBD export URI a block device of this machine, and prints its path. A
disk that is attached already keeps its device, which is printed again.

TIME is a number of seconds, or one with ms, s, m or h.
`

const ATTACH_EXAMPLES = `Examples:
  Mount a disk of another machine:
      mount "$(ondemand-disk attach nbd://server/alice)" /mnt
  Take it away again:
      umount /mnt
      ondemand-disk detach nbd://server/alice
`

const DETACH_INTRODUCTION = `Usage: ondemand-disk detach URI|DEVICE [OPTION]...

Takes away the block device of an NBD export. What is not attached is no error.
A device that is in use is refused.
`

const GROW_INTRODUCTION = `Usage: ondemand-disk grow URI|DEVICE [OPTION]...

Lets a disk that is attached grow to what its export has now, also while it is
in use, and prints its size in bytes. What is on the disk is not touched.

TIME is a number of seconds, or one with ms, s, m or h.
`

const GROW_EXAMPLES = `Examples:
  Use the new part of a mounted ext4 filesystem:
      ondemand-disk grow /dev/nbd0
      resize2fs /dev/nbd0
`

const ATTACHED_INTRODUCTION = `Usage: ondemand-disk attached [OPTION]...

Lists the disks that are attached, one a line: the device, nbd or fuse, ro or
rw, and the URI. They are found by asking the kernel.
`

/** By command. */
export const DISK_COMMANDS: Readonly<Record<string, CommandHelp>> = {
  fuse: { introduction: FUSE_INTRODUCTION, options: FUSE_OPTIONS, examples: FUSE_EXAMPLES },
  attach: { introduction: ATTACH_INTRODUCTION, options: ATTACH_OPTIONS, examples: ATTACH_EXAMPLES },
  detach: { introduction: DETACH_INTRODUCTION, options: DETACH_OPTIONS },
  grow: { introduction: GROW_INTRODUCTION, options: GROW_OPTIONS, examples: GROW_EXAMPLES },
  attached: { introduction: ATTACHED_INTRODUCTION, options: ATTACHED_OPTIONS },
}
