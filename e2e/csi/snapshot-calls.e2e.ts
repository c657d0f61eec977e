/** The CSI driver's calls for snapshots and copies, each case of csi-sanity by its name; then what it does not ask. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { DISK_SNAPSHOTS } from '../../crds/resources.ts'
import { check } from '../harness.ts'
import { PYTHON } from '../libnbd.ts'
import { block, newName, parameters, refused, useController } from './controller.ts'
import { fromSnapshot, fromVolume, snapshotCalls } from './snapshots.ts'

const MIB = 2 ** 20
const SLOW = { timeout: 90_000, interval: 100 }
const MISSING = 'fake-snap-id-0123456789'

const controller = useController({ quota: '4Gi' })
const { call, make } = controller
const { snapshotOf, removeSnapshot, removeVolume, objectOf, pathOf, uriOf, expectTidy } =
  snapshotCalls(controller)

describe('CreateSnapshot', () => {
  test('without a name, without a source, of a missing volume, with a parameter', async () => {
    const of = (request: object) => call('CreateSnapshot', request)
    await expect(of({ sourceVolumeId: 'a/b' })).rejects.toEqual(refused('INVALID_ARGUMENT', 'name'))
    await expect(of({ name: 'x' })).rejects.toEqual(refused('INVALID_ARGUMENT', 'source_volume_id'))
    for (const sourceVolumeId of [MISSING, `${parameters.poolNamespace}/none`]) {
      await expect(of({ name: 'x', sourceVolumeId })).rejects.toEqual(refused('NOT_FOUND'))
    }
    const { volumeId: sourceVolumeId } = await make()
    const odd = { name: 'x', sourceVolumeId, parameters: { speed: 'high' } }
    await expect(of(odd)).rejects.toEqual(refused('INVALID_ARGUMENT', 'speed'))
    await removeVolume(sourceVolumeId)
  })

  test('same name and source is the same snapshot, another source is refused; the longest name', {
    timeout: 180_000,
  }, async () => {
    const [one, other] = [await make(), await make()]
    const name = newName()
    const snapshot = await snapshotOf(one.volumeId, name)
    expect(await snapshotOf(one.volumeId, name)).toEqual(snapshot)
    await expect(call('CreateSnapshot', { name, sourceVolumeId: other.volumeId })).rejects.toEqual(
      refused('ALREADY_EXISTS', name),
    )
    const long = await snapshotOf(one.volumeId, `${'x'.repeat(64)}${'Y'.repeat(64)}`)
    await removeSnapshot(snapshot.snapshotId)
    await removeSnapshot(long.snapshotId)
    for (const { volumeId } of [one, other]) await removeVolume(volumeId)
  })
})

test('DeleteSnapshot: no id is refused, an unknown one is gone already', async () => {
  await expect(call('DeleteSnapshot', {})).rejects.toEqual(refused('INVALID_ARGUMENT', 'snapshot_id'))
  for (const id of [MISSING, `${parameters.poolNamespace}/none`, 'a/b/c'])
    expect(await removeSnapshot(id)).toEqual({})
})

test('ListSnapshots: all, by id, by volume, page by page', { timeout: 240_000 }, async () => {
  const list = (request: object = {}) => call('ListSnapshots', request)
  const ids = async (request: object = {}) =>
    (await list(request)).entries.map(({ snapshot }) => snapshot.snapshotId)
  const before = await ids()
  const [one, other] = [await make(), await make()]
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
    fromSnapshot(`${parameters.poolNamespace}/none`),
    fromVolume(MISSING),
  ]) {
    await expect(make({ volumeContentSource })).rejects.toEqual(refused('NOT_FOUND'))
  }
  const volume = await make()
  const { snapshotId } = await snapshotOf(volume.volumeId)
  for (const volumeContentSource of [fromSnapshot(snapshotId), fromVolume(volume.volumeId)]) {
    const small = {
      volumeContentSource,
      capacityRange: { requiredBytes: '0', limitBytes: String(8 * MIB) },
    }
    await expect(make(small)).rejects.toEqual(refused('OUT_OF_RANGE'))
    const raw = { volumeContentSource, volumeCapabilities: [block] }
    await expect(make(raw)).rejects.toEqual(refused('INVALID_ARGUMENT', 'filesystem'))
  }
  const name = newName()
  const made = await make({ volumeContentSource: fromSnapshot(snapshotId) }, name)
  expect(await make({ volumeContentSource: fromSnapshot(snapshotId) }, name)).toEqual(made)
  await expect(make({}, name)).rejects.toEqual(refused('ALREADY_EXISTS', 'copy'))
  await removeVolume(made.volumeId)
  await removeSnapshot(snapshotId)
  await removeVolume(volume.volumeId)
})

test('objects alone do it, too, and say what is wrong', { timeout: 240_000 }, async () => {
  const { client } = controller.pool.plane
  const apply = (name: string, diskName: string) =>
    client.create(DISK_SNAPSHOTS, {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'DiskSnapshot',
      metadata: { name, namespace: parameters.poolNamespace },
      spec: { diskName },
    } as never)
  const ready = async (name: string) => {
    const snapshot = await objectOf(`/${name}`)
    return snapshot?.status?.conditions?.find(({ type }) => type === 'Ready')
  }
  const diskReady = async (name: string) =>
    (await controller.pool.disk(name))?.status?.conditions?.find(({ type }) => type === 'Ready')
  await apply('early', 'late')
  await vi.waitFor(async () => expect((await ready('early'))?.reason).toBe('DiskNotFound'), SLOW)
  await controller.pool.apply('late', { size: 16 * MIB })
  await vi.waitFor(async () => expect((await ready('early'))?.status).toBe('True'), SLOW)
  await controller.pool.apply('small', { size: 8 * MIB, source: { kind: 'DiskSnapshot', name: 'early' } })
  await vi.waitFor(async () => {
    expect((await diskReady('small'))?.message).toMatch(/^spec\.size: .* 16777216/)
  }, SLOW)
  await controller.pool.apply('orphan', { size: 16 * MIB, source: { kind: 'OnDemandDisk', name: 'nobody' } })
  await vi.waitFor(async () => expect((await diskReady('orphan'))?.reason).toBe('SourceNotFound'), SLOW)
  await controller.pool.apply('copy', { size: 16 * MIB, source: { kind: 'OnDemandDisk', name: 'late' } })
  await vi.waitFor(async () => expect((await diskReady('copy'))?.status).toBe('True'), SLOW)
  // 4Gi of quota: there is no place for a second snapshot of so large a disk.
  await controller.pool.apply('large', { size: 3 * 2 ** 30 })
  await vi.waitFor(async () => expect((await diskReady('large'))?.status).toBe('True'), SLOW)
  await apply('too-large', 'large')
  await vi.waitFor(async () => expect((await ready('too-large'))?.reason).toBe('QuotaExceeded'), SLOW)
  await client.delete(DISK_SNAPSHOTS, { namespace: parameters.poolNamespace, name: 'too-large' })
  for (const name of ['small', 'orphan', 'copy', 'late', 'large']) await controller.pool.remove(name)
  await vi.waitFor(async () => expect(await controller.pool.disks()).toEqual([]), SLOW)
  expect((await ready('early'))?.status).toBe('True')
  await client.delete(DISK_SNAPSHOTS, { namespace: parameters.poolNamespace, name: 'early' })
  await vi.waitFor(async () => expect(await objectOf('/early')).toBeUndefined(), SLOW)
  await expectTidy()
})

test('whatever is killed while snapshots and clones are made, all are made, and nothing is left over', {
  timeout: 300_000,
}, async () => {
  const volume = await make({ volumeCapabilities: [block] }, newName(), 256 * MIB)
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
      .waitFor(async () => expect(await readdir(join(controller.pool.volume, 'copies'))).not.toEqual([]), {
        timeout: 20_000,
        interval: 5,
      })
      .catch(() => {})
  for (const [round, program] of (['agent', 'nbd', 'operator'] as const).entries()) {
    const [name, cloneName] = [newName(), newName()]
    const taking = call('CreateSnapshot', { sourceVolumeId: volume.volumeId, name }, 2000).catch(
      () => undefined,
    )
    await copying()
    await controller.pool[program].kill()
    await sleep(round * 100)
    await controller.pool[program].start()
    await taking
    const { snapshotId } = await snapshotOf(volume.volumeId, name)
    const uid = (await objectOf(snapshotId))?.metadata.uid ?? ''
    await check('cmp', [source, join(controller.pool.volume, 'snapshots', uid)])
    const fields = { volumeCapabilities: [block], volumeContentSource: fromSnapshot(snapshotId) }
    const cloning = make(fields, cloneName, 256 * MIB).catch(() => undefined)
    await copying()
    await controller.pool[program].kill()
    await controller.pool[program].start()
    await cloning
    const clone = await vi.waitFor(() => make(fields, cloneName, 256 * MIB), SLOW)
    await check('cmp', [source, await pathOf(clone.volumeId)])
    await removeVolume(clone.volumeId)
    await removeSnapshot(snapshotId)
  }
  await removeVolume(volume.volumeId)
  await expectTidy()
})
