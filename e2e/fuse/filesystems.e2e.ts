/** File systems on a loop device on a FUSE file: of an image, and of a disk over the network. */
import { mkdir, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { check, needPrograms, run, scratch, startServer } from '../harness.ts'
import { fuse, loop, mountDevice, needRoot, verifyJob } from './mounts.ts'

const MiB = 1024 * 1024
const OPERATIONS = 100_000
/** Milliseconds; alone on a machine the operations take about a minute. */
const LIMIT = 600_000

const CHECKS: Readonly<Record<string, readonly [program: string, ...args: string[]]>> = {
  ext4: ['e2fsck', '-fn'],
  xfs: ['xfs_repair', '-n'],
}

const allocated = async (path: string): Promise<number> => (await stat(path)).blocks * 512

test.for([
  ['ext4', 'image', 11],
  ['xfs', 'image', 12],
  ['ext4', 'NBD disk', 13],
  ['xfs', 'NBD disk', 14],
] as const)(
  '%s on an %s: random operations, fio verify, and fstrim gives space back',
  {
    timeout: 2 * LIMIT,
    // Data that was wrong once is lost data.
    retry: 0,
  },
  async ([type, kind, seed], context) => {
    needRoot(context)
    await needPrograms(context, 'fio', 'python3', `mkfs.${type}`, CHECKS[type]?.[0] ?? '', 'fstrim')
    await using folder = await scratch()
    const [disks, mountpoint] = [join(folder.path, 'disks'), join(folder.path, 'mnt')]
    await mkdir(disks)
    await mkdir(mountpoint)
    const image = join(disks, 'alice')
    await using server = await startServer(['--dir', disks, '--size', '512M', '--type', type])
    if (kind === 'image') {
      await writeFile(image, '')
      await truncate(image, 512 * MiB)
      await check(`mkfs.${type}`, ['-q', image])
    }
    {
      await using file = await fuse(kind === 'image' ? image : server.uri('alice'), folder.path, [
        '--writable',
      ])
      {
        await using device = await loop(file.path)
        await using _mount = await mountDevice(device.device, mountpoint)

        const oracle = join(folder.path, 'oracle')
        const program = join(import.meta.dirname, 'random_operations.py')
        const args = [program, `${seed}`, `${OPERATIONS}`, join(mountpoint, 'file'), oracle]
        const said = await run('python3', args, { timeout: LIMIT })
        expect(said.stdout + said.stderr).toBe(`${OPERATIONS} operations\n`)

        await check('fio', verifyJob(mountpoint, '64M', '512-64k', seed), { timeout: LIMIT })

        await check('sync', ['-f', mountpoint])
        const full = await allocated(image)
        await check('rm', [join(mountpoint, 'verify.0.0')])
        await check('sync', ['-f', mountpoint])
        await check('fstrim', [mountpoint])
        // What the server has done is seen at once; what the file system of the image does may take a moment.
        for (let tries = 0; tries < 50 && (await allocated(image)) > full - 60 * MiB; tries++)
          await sleep(100)
        expect(await allocated(image)).toBeLessThanOrEqual(full - 60 * MiB)
      }
      expect(await file.stop(), file.log()).toBe(0)
    }
    expect(await server.stop()).toBe(0)
    const [program, ...args] = CHECKS[type] ?? ['false']
    await check(program, [...args, image])
  },
)
