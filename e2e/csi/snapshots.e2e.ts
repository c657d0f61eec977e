/** Snapshots and clones by the CSI driver hold the data of one moment, as reflinks and as plain copies. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { check, scratch } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { block, newName, parameters, useController } from './controller.ts'
import { fromSnapshot, fromVolume, snapshotCalls } from './snapshots.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 90_000, interval: 100 }

/** A file system with reflinks on a loop device. */
async function mountXfs(path: string): Promise<() => Promise<unknown>> {
  const image = `${path}.image`
  await writeFile(image, '')
  await check('truncate', ['-s', '2G', image])
  await check('mkfs.xfs', ['-q', '-m', 'reflink=1', image])
  await check('mount', ['-o', 'loop', image, path])
  return () => check('umount', ['-l', path])
}

/**
 * Writes numbers that go up, one after the other, each into the next of 200 blocks that are spread over the disk, until
 * a file is there. What is there of them at one moment are the last 200, or all but the first.
 */
const COUNT = `
import nbd, os, struct, sys
uri, stop = sys.argv[1:]
h = nbd.NBD(); h.connect_uri(uri)
for at in range(0, 60 << 20, 1 << 20): h.pwrite(os.urandom(1 << 20), at)
h.flush()
n = 0
while not os.path.exists(stop):
    n += 1
    h.pwrite(struct.pack('>Q', n) * 512, (n % 200) * 300 * 1024)
    if n == 200: print('counting', flush=True)
h.shutdown()
print(n)
`
const READ = `
import nbd, struct, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
print([struct.unpack('>Q', h.pread(8, k * 300 * 1024))[0] for k in range(200)])
h.shutdown()
`

/** The number at which a disk was, that was written by COUNT; fails if it is no state that the disk ever had. */
function momentOf(values: readonly number[]): number {
  const last = Math.max(...values)
  const expected = values.map((_, k) => last - ((((last - k) % 200) + 200) % 200))
  expect(values).toEqual(expected)
  return last
}

describe.each([
  ['reflink', mountXfs],
  ['copy', undefined],
] as const)('On a volume where a snapshot is a %s', (method, mountVolume) => {
  const controller = useController({ quota: '4Gi', mountVolume })
  const { make, diskOf } = controller
  const { snapshotOf, removeSnapshot, removeVolume, objectOf, pathOf, uriOf, expectTidy } =
    snapshotCalls(controller)
  const numbersOf = async (volumeId: string) =>
    JSON.parse(await check(PYTHON, ['-c', READ, uriOf(volumeId)])) as number[]

  test('a snapshot of a filesystem comes back as a larger volume, whole, with what was in it then', {
    timeout: 240_000,
  }, async () => {
    await using folder = await scratch()
    const file = join(folder.path, 'file')
    await writeFile(file, 'before')
    const volume = await make()
    const path = await pathOf(volume.volumeId)
    await check('/sbin/debugfs', ['-w', '-R', `write ${file} file`, path])
    const snapshot = await snapshotOf(volume.volumeId)
    expect(snapshot).toMatchObject({ sourceVolumeId: volume.volumeId, sizeBytes: String(16 * MIB) })
    const object = await objectOf(snapshot.snapshotId)
    expect(object?.status).toMatchObject({
      method,
      size: 16 * MIB,
      filesystem: 'ext4',
      poolName: parameters.pool,
    })
    expect(Math.abs(Number(snapshot.creationTime.seconds) * 1000 - Date.now())).toBeLessThan(120_000)
    await check('/sbin/debugfs', ['-w', '-R', 'rm file', path])

    // The snapshot outlives its disk.
    await removeVolume(volume.volumeId)
    const contentSource = fromSnapshot(snapshot.snapshotId)
    const restored = await make({ volumeContentSource: contentSource }, newName(), 32 * MIB)
    expect(restored).toMatchObject({
      capacityBytes: String(32 * MIB),
      contentSource: { snapshot: { snapshotId: snapshot.snapshotId } },
    })
    const copy = await pathOf(restored.volumeId)
    await vi.waitFor(async () => {
      const text = await check('/sbin/dumpe2fs', ['-h', copy])
      const [blocks, bytes] = ['Block count', 'Block size'].map(key =>
        Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1]),
      )
      expect((blocks ?? 0) * (bytes ?? 0)).toBeGreaterThan(31 * MIB)
    }, SLOW)
    await check('/sbin/e2fsck', ['-fn', copy])
    expect(await check('/sbin/debugfs', ['-R', 'cat file', copy])).toContain('before')
    // It was never formatted: no Job was run for it.
    expect(controller.pool.jobs.get(`odd-${(await diskOf(restored.volumeId)).metadata.uid}`)).toBeUndefined()
    await removeVolume(restored.volumeId)
    await removeSnapshot(snapshot.snapshotId)
    expect(await objectOf(snapshot.snapshotId)).toBeUndefined()
    await expectTidy()
  })

  test('snapshots and clones of a volume that is written are each of one moment, and no write fails', {
    timeout: 300_000,
  }, async () => {
    await using folder = await scratch()
    const stop = join(folder.path, 'stop')
    const volume = await make({ volumeCapabilities: [block] }, newName(), 64 * MIB)
    let counting = () => {}
    const begun = new Promise<void>(resolve => {
      counting = resolve
    })
    const writing = check(PYTHON, ['-c', COUNT, uriOf(volume.volumeId), stop], {
      timeout: 200_000,
      onLine: line => line === 'counting' && counting(),
    })
    await Promise.race([begun, writing])
    const first = await snapshotOf(volume.volumeId)
    const clone = await make(
      { volumeCapabilities: [block], volumeContentSource: fromVolume(volume.volumeId) },
      newName(),
      64 * MIB,
    )
    const second = await snapshotOf(volume.volumeId)
    await writeFile(stop, '')
    const last = Number((await writing).trim().split('\n').at(-1))
    const volumeContentSource = fromSnapshot(first.snapshotId)
    const restored = await make({ volumeCapabilities: [block], volumeContentSource }, newName(), 64 * MIB)
    const moments = [
      momentOf(await numbersOf(restored.volumeId)),
      momentOf(await numbersOf(clone.volumeId)),
      momentOf(await numbersOf(volume.volumeId)),
    ]
    expect(moments).toEqual([...moments].sort((a, b) => a - b))
    expect(moments[0]).toBeGreaterThanOrEqual(200)
    expect(moments[2]).toBe(last)
    for (const { volumeId } of [volume, clone, restored]) await removeVolume(volumeId)
    for (const { snapshotId } of [first, second]) await removeSnapshot(snapshotId)
    await expectTidy()
  })
})
