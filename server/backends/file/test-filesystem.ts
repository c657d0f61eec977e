/** File systems and block devices for the tests of this folder, made for a test and gone with it. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { makeDirectory, makeSmallFilesystem } from '../disks/test-directory.ts'

const MIB = 2 ** 20
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }

function run(program: string, ...args: readonly string[]): string {
  return execFileSync(program, args, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

function imageOf(size: number): string {
  const image = join(makeDirectory(), 'image')
  writeFileSync(image, '')
  truncateSync(image, size)
  return image
}

/** A loop device on a sparse file of this size in bytes. */
export function loopDevice(size: number): string {
  const device = run('losetup', '--find', '--show', imageOf(size)).trim()
  onTestFinished(() => {
    run('losetup', '--detach', device)
  })
  return device
}

/**
 * A directory on a file system of this type. What they can do differs: ext4, xfs and btrfs all that we
 * ask for; tmpfs no ZERO_RANGE; ext2 only holes; ntfs, by FUSE, nothing.
 */
export function directoryOn(type: 'ext4' | 'xfs' | 'btrfs' | 'tmpfs' | 'ext2' | 'ntfs'): string {
  if (type === 'tmpfs') return makeSmallFilesystem(64 * MIB)
  // xfs does not make do with less; what is not needed would only have to be written to a disk that may be slow.
  const image = imageOf(type === 'xfs' ? 320 * MIB : 128 * MIB)
  run(`mkfs.${type}`, ...(type === 'ntfs' ? ['-Q', '-F'] : ['-q']), image)
  const path = join(makeDirectory(), 'mounted')
  mkdirSync(path)
  if (type === 'ntfs') run('ntfs-3g', image, path)
  else run('mount', '-o', 'loop', image, path)
  onTestFinished(() => {
    run('umount', path)
  })
  return path
}
