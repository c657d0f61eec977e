import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { DiskSnapshot } from '../../crds/disksnapshot.ts'
import type { OnDemandDisk } from '../../crds/ondemanddisk.ts'
import { DISK_SNAPSHOTS } from '../../crds/resources.ts'
import type { VolumeCapability, VolumeContentSource } from '../../operator/csi/protocol/messages.ts'
import { check, scratch } from '../harness.ts'
import { NAMESPACE, POOL, startPool, type TestPool } from '../kube/pool.ts'
import { PYTHON } from '../libnbd.ts'
import { type Driver, startDriver } from './driver.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 90_000, interval: 100 }
const MISSING = 'fake-snap-id-0123456789'

const mount: VolumeCapability = {
  mount: { fsType: '', mountFlags: [], volumeMountGroup: '' },
  accessMode: { mode: 'SINGLE_NODE_WRITER' },
}
const block: VolumeCapability = { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }
const parameters = { pool: POOL, poolNamespace: NAMESPACE }
const refused = (code: string, message: string | RegExp = '') =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })

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
  let pool: TestPool
  let driver: Driver

  beforeAll(async () => {
    pool = await startPool({ quota: '4Gi' }, mountVolume)
    driver = await startDriver(['--kubeconfig', pool.plane.kubeconfig])
  }, 300_000)

  afterAll(async () => {
    await driver?.[Symbol.asyncDispose]()
    await pool?.[Symbol.asyncDispose]()
  })

  let names = 0
  /** As csi-sanity makes them. */
  const newName = () => `sanity-snapshot-${(names++).toString(16).toUpperCase().padStart(8, '0')}-A1B2C3D4`
  const nameOf = (id: string) => id.split('/')[1] ?? ''
  const diskOf = async (volumeId: string) => (await pool.disk(nameOf(volumeId))) as OnDemandDisk
  const objectOf = async (snapshotId: string) =>
    await pool.plane.client.find<DiskSnapshot>(DISK_SNAPSHOTS, {
      namespace: NAMESPACE,
      name: nameOf(snapshotId),
    })

  async function makeVolume(fields: object = {}, name = newName(), bytes = 16 * MIB) {
    const capacityRange = { requiredBytes: String(bytes), limitBytes: '0' }
    const request = { name, parameters, volumeCapabilities: [mount], capacityRange, ...fields }
    return (await driver.call('CreateVolume', request)).volume
  }

  /** Until it is ready to use, as a client would ask. */
  async function snapshotOf(sourceVolumeId: string, name = newName()) {
    return await vi.waitFor(async () => {
      const { snapshot } = await driver.call('CreateSnapshot', { sourceVolumeId, name })
      expect(snapshot.readyToUse).toBe(true)
      return snapshot
    }, SLOW)
  }

  const fromSnapshot = (snapshotId: string): VolumeContentSource => ({ snapshot: { snapshotId } })
  const fromVolume = (volumeId: string): VolumeContentSource => ({ volume: { volumeId } })
  /** A volume whose status has just changed is to be deleted again. */
  const removeVolume = (volumeId: string) => vi.waitFor(() => driver.call('DeleteVolume', { volumeId }), SLOW)
  const removeSnapshot = (snapshotId: string) => driver.call('DeleteSnapshot', { snapshotId })
  const pathOf = async (volumeId: string) =>
    join(pool.volume, 'disks', (await diskOf(volumeId)).metadata.uid ?? '')
  const uriOf = (volumeId: string) => pool.uri(nameOf(volumeId))
  const numbersOf = async (volumeId: string) =>
    JSON.parse(await check(PYTHON, ['-c', READ, uriOf(volumeId)])) as number[]

  /** Nothing of any copy is left on the volume but what objects stand for. */
  async function expectTidy(): Promise<void> {
    const snapshots = (await pool.plane.client.list<DiskSnapshot>(DISK_SNAPSHOTS, {})).items
    const disks = await pool.disks()
    const uids = (objects: readonly { metadata: { uid?: string } }[]) =>
      objects.map(({ metadata }) => metadata.uid).sort()
    await vi.waitFor(async () => {
      expect(await readdir(join(pool.volume, 'copies'))).toEqual([])
      expect((await readdir(join(pool.volume, 'snapshots'))).sort()).toEqual(uids(snapshots))
      const files = (await readdir(join(pool.volume, 'disks'))).filter(name => !name.startsWith('.'))
      expect(files.sort()).toEqual(uids(disks))
    }, SLOW)
  }

  test('a snapshot of a filesystem comes back as a larger volume, whole, with what was in it then', {
    timeout: 240_000,
  }, async () => {
    await using folder = await scratch()
    const file = join(folder.path, 'file')
    await writeFile(file, 'before')
    const volume = await makeVolume()
    const path = await pathOf(volume.volumeId)
    await check('/sbin/debugfs', ['-w', '-R', `write ${file} file`, path])
    const snapshot = await snapshotOf(volume.volumeId)
    expect(snapshot).toMatchObject({ sourceVolumeId: volume.volumeId, sizeBytes: String(16 * MIB) })
    const object = await objectOf(snapshot.snapshotId)
    expect(object?.status).toMatchObject({ method, size: 16 * MIB, filesystem: 'ext4', poolName: POOL })
    expect(Math.abs(Number(snapshot.creationTime.seconds) * 1000 - Date.now())).toBeLessThan(120_000)
    await check('/sbin/debugfs', ['-w', '-R', 'rm file', path])

    // The snapshot outlives its disk.
    await removeVolume(volume.volumeId)
    const contentSource = fromSnapshot(snapshot.snapshotId)
    const restored = await makeVolume({ volumeContentSource: contentSource }, newName(), 32 * MIB)
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
    expect(pool.jobs.get(`odd-${(await diskOf(restored.volumeId)).metadata.uid}`)).toBeUndefined()
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
    const volume = await makeVolume({ volumeCapabilities: [block] }, newName(), 64 * MIB)
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
    const clone = await makeVolume(
      { volumeCapabilities: [block], volumeContentSource: fromVolume(volume.volumeId) },
      newName(),
      64 * MIB,
    )
    const second = await snapshotOf(volume.volumeId)
    await writeFile(stop, '')
    const last = Number((await writing).trim().split('\n').at(-1))
    const volumeContentSource = fromSnapshot(first.snapshotId)
    const restored = await makeVolume(
      { volumeCapabilities: [block], volumeContentSource },
      newName(),
      64 * MIB,
    )
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

  if (method === 'reflink') return

  describe('CreateSnapshot', () => {
    test('without a name, without a source, of a missing volume, with a parameter', async () => {
      const of = (request: object) => driver.call('CreateSnapshot', request)
      await expect(of({ sourceVolumeId: 'a/b' })).rejects.toEqual(refused('INVALID_ARGUMENT', 'name'))
      await expect(of({ name: 'x' })).rejects.toEqual(refused('INVALID_ARGUMENT', 'source_volume_id'))
      for (const sourceVolumeId of [MISSING, `${NAMESPACE}/none`]) {
        await expect(of({ name: 'x', sourceVolumeId })).rejects.toEqual(refused('NOT_FOUND'))
      }
      const { volumeId: sourceVolumeId } = await makeVolume()
      const odd = { name: 'x', sourceVolumeId, parameters: { speed: 'high' } }
      await expect(of(odd)).rejects.toEqual(refused('INVALID_ARGUMENT', 'speed'))
      await removeVolume(sourceVolumeId)
    })

    test('same name and source is the same snapshot, another source is refused; the longest name', {
      timeout: 180_000,
    }, async () => {
      const [one, other] = [await makeVolume(), await makeVolume()]
      const name = newName()
      const snapshot = await snapshotOf(one.volumeId, name)
      expect(await snapshotOf(one.volumeId, name)).toEqual(snapshot)
      await expect(driver.call('CreateSnapshot', { name, sourceVolumeId: other.volumeId })).rejects.toEqual(
        refused('ALREADY_EXISTS', name),
      )
      const long = await snapshotOf(one.volumeId, `${'x'.repeat(64)}${'Y'.repeat(64)}`)
      await removeSnapshot(snapshot.snapshotId)
      await removeSnapshot(long.snapshotId)
      for (const { volumeId } of [one, other]) await removeVolume(volumeId)
    })
  })

  test('DeleteSnapshot: no id is refused, an unknown one is gone already', async () => {
    await expect(driver.call('DeleteSnapshot', {})).rejects.toEqual(
      refused('INVALID_ARGUMENT', 'snapshot_id'),
    )
    for (const id of [MISSING, `${NAMESPACE}/none`, 'a/b/c']) expect(await removeSnapshot(id)).toEqual({})
  })

  test('ListSnapshots: all, by id, by volume, page by page', { timeout: 240_000 }, async () => {
    const list = (request: object = {}) => driver.call('ListSnapshots', request)
    const ids = async (request: object = {}) =>
      (await list(request)).entries.map(({ snapshot }) => snapshot.snapshotId)
    const before = await ids()
    const [one, other] = [await makeVolume(), await makeVolume()]
    const made = [
      await snapshotOf(one.volumeId),
      await snapshotOf(one.volumeId),
      await snapshotOf(other.volumeId),
    ].map(({ snapshotId }) => snapshotId)
    expect(await ids()).toEqual([...before, ...made].sort())
    expect(await ids({ snapshotId: made[1] })).toEqual([made[1]])
    expect(await ids({ sourceVolumeId: one.volumeId })).toEqual(made.slice(0, 2).sort())
    for (const unknown of [{ snapshotId: MISSING }, { sourceVolumeId: MISSING }]) {
      expect(await list(unknown)).toEqual({ entries: [], nextToken: '' })
    }
    await expect(list({ startingToken: 'none-of-ours' })).rejects.toEqual(refused('ABORTED'))
    const pages: string[] = []
    let startingToken = ''
    do {
      const page = await list({ maxEntries: 2, startingToken })
      expect(page.entries.length).toBeLessThanOrEqual(2)
      pages.push(...page.entries.map(({ snapshot }) => snapshot.snapshotId))
      startingToken = page.nextToken
    } while (startingToken !== '')
    expect(pages).toEqual([...before, ...made].sort())
    for (const id of made) await removeSnapshot(id)
    expect(await ids()).toEqual(before)
    for (const { volumeId } of [one, other]) await removeVolume(volumeId)
  })

  test('CreateVolume from what is not there, is larger, or has another filesystem', {
    timeout: 180_000,
  }, async () => {
    for (const volumeContentSource of [
      fromSnapshot(MISSING),
      fromSnapshot(`${NAMESPACE}/none`),
      fromVolume(MISSING),
    ]) {
      await expect(makeVolume({ volumeContentSource })).rejects.toEqual(refused('NOT_FOUND'))
    }
    const volume = await makeVolume()
    const { snapshotId } = await snapshotOf(volume.volumeId)
    for (const volumeContentSource of [fromSnapshot(snapshotId), fromVolume(volume.volumeId)]) {
      const small = {
        volumeContentSource,
        capacityRange: { requiredBytes: '0', limitBytes: String(8 * MIB) },
      }
      await expect(makeVolume(small)).rejects.toEqual(refused('OUT_OF_RANGE'))
      const raw = { volumeContentSource, volumeCapabilities: [block] }
      await expect(makeVolume(raw)).rejects.toEqual(refused('INVALID_ARGUMENT', 'filesystem'))
    }
    const name = newName()
    const made = await makeVolume({ volumeContentSource: fromSnapshot(snapshotId) }, name)
    expect(await makeVolume({ volumeContentSource: fromSnapshot(snapshotId) }, name)).toEqual(made)
    await expect(makeVolume({}, name)).rejects.toEqual(refused('ALREADY_EXISTS', 'copy'))
    await removeVolume(made.volumeId)
    await removeSnapshot(snapshotId)
    await removeVolume(volume.volumeId)
  })

  test('objects alone do it, too, and say what is wrong', { timeout: 240_000 }, async () => {
    const { client } = pool.plane
    const apply = (name: string, diskName: string) =>
      client.create(DISK_SNAPSHOTS, {
        apiVersion: 'ondemanddisk.dev/v1alpha1',
        kind: 'DiskSnapshot',
        metadata: { name, namespace: NAMESPACE },
        spec: { diskName },
      } as never)
    const ready = async (name: string) => {
      const snapshot = await objectOf(`/${name}`)
      return snapshot?.status?.conditions?.find(({ type }) => type === 'Ready')
    }
    const diskReady = async (name: string) =>
      (await pool.disk(name))?.status?.conditions?.find(({ type }) => type === 'Ready')
    await apply('early', 'late')
    await vi.waitFor(async () => expect((await ready('early'))?.reason).toBe('DiskNotFound'), SLOW)
    await pool.apply('late', { size: 16 * MIB })
    await vi.waitFor(async () => expect((await ready('early'))?.status).toBe('True'), SLOW)
    await pool.apply('small', { size: 8 * MIB, source: { kind: 'DiskSnapshot', name: 'early' } })
    await vi.waitFor(async () => {
      expect((await diskReady('small'))?.message).toMatch(/^spec\.size: .* 16777216/)
    }, SLOW)
    await pool.apply('orphan', { size: 16 * MIB, source: { kind: 'OnDemandDisk', name: 'nobody' } })
    await vi.waitFor(async () => expect((await diskReady('orphan'))?.reason).toBe('SourceNotFound'), SLOW)
    await pool.apply('copy', { size: 16 * MIB, source: { kind: 'OnDemandDisk', name: 'late' } })
    await vi.waitFor(async () => expect((await diskReady('copy'))?.status).toBe('True'), SLOW)
    // 4Gi of quota: there is no place for a second snapshot of so large a disk.
    await pool.apply('large', { size: 3 * 2 ** 30 })
    await vi.waitFor(async () => expect((await diskReady('large'))?.status).toBe('True'), SLOW)
    await apply('too-large', 'large')
    await vi.waitFor(async () => expect((await ready('too-large'))?.reason).toBe('QuotaExceeded'), SLOW)
    await client.delete(DISK_SNAPSHOTS, { namespace: NAMESPACE, name: 'too-large' })
    for (const name of ['small', 'orphan', 'copy', 'late', 'large']) await pool.remove(name)
    await vi.waitFor(async () => expect(await pool.disks()).toEqual([]), SLOW)
    expect((await ready('early'))?.status).toBe('True')
    await client.delete(DISK_SNAPSHOTS, { namespace: NAMESPACE, name: 'early' })
    await vi.waitFor(async () => expect(await objectOf('/early')).toBeUndefined(), SLOW)
    await expectTidy()
  })

  test('whatever is killed while snapshots and clones are made, all are made, and nothing is left over', {
    timeout: 300_000,
  }, async () => {
    const volume = await makeVolume({ volumeCapabilities: [block] }, newName(), 256 * MIB)
    const fill = `
import nbd, os, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
for at in range(0, 256 << 20, 1 << 20): h.pwrite(os.urandom(1 << 20), at)
h.flush(); h.shutdown()`
    await check(PYTHON, ['-c', fill, uriOf(volume.volumeId)], { timeout: 120_000 })
    const source = await pathOf(volume.volumeId)
    /** Not later than when there is something to be interrupted. */
    const copying = () =>
      vi
        .waitFor(async () => expect(await readdir(join(pool.volume, 'copies'))).not.toEqual([]), {
          timeout: 20_000,
          interval: 5,
        })
        .catch(() => {})
    for (const [round, program] of (['agent', 'nbd', 'operator'] as const).entries()) {
      const [name, cloneName] = [newName(), newName()]
      const taking = driver
        .call('CreateSnapshot', { sourceVolumeId: volume.volumeId, name }, 2000)
        .catch(() => undefined)
      await copying()
      await pool[program].kill()
      await sleep(round * 100)
      await pool[program].start()
      await taking
      const { snapshotId } = await snapshotOf(volume.volumeId, name)
      const uid = (await objectOf(snapshotId))?.metadata.uid ?? ''
      await check('cmp', [source, join(pool.volume, 'snapshots', uid)])
      const fields = { volumeCapabilities: [block], volumeContentSource: fromSnapshot(snapshotId) }
      const cloning = makeVolume(fields, cloneName, 256 * MIB).catch(() => undefined)
      await copying()
      await pool[program].kill()
      await pool[program].start()
      await cloning
      const clone = await vi.waitFor(() => makeVolume(fields, cloneName, 256 * MIB), SLOW)
      await check('cmp', [source, await pathOf(clone.volumeId)])
      await removeVolume(clone.volumeId)
      await removeSnapshot(snapshotId)
    }
    await removeVolume(volume.volumeId)
    await expectTidy()
  })
})
