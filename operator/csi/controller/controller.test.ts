/** What can be said of a request without asking anybody. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { OnDemandDisk } from '../../../crds/ondemanddisk.ts'
import type { AccessMode, CreateVolumeRequest, VolumeCapability } from '../protocol/messages.ts'
import { parseRange, sizeIn } from './capacity.ts'
import { listVolumes } from './list.ts'
import { type Publication, patchOf, publicationsOf, publish, unpublish } from './publication.ts'
import { objectNameOf, parseVolumeId } from './volume-id.ts'
import { checkSame, wantedVolume } from './wanted.ts'

const mounted = (mode: AccessMode = 'SINGLE_NODE_WRITER', fsType = ''): VolumeCapability => ({
  mount: { fsType, mountFlags: [], volumeMountGroup: '' },
  accessMode: { mode },
})
const block: VolumeCapability = { block: {}, accessMode: { mode: 'SINGLE_NODE_WRITER' } }

const request = (fields: Partial<CreateVolumeRequest> = {}): CreateVolumeRequest => ({
  name: 'pvc-1',
  capacityRange: null,
  volumeCapabilities: [mounted()],
  parameters: { pool: 'lab', poolNamespace: 'disks' },
  volumeContentSource: null,
  mutableParameters: {},
  ...fields,
})
const GIB = 2 ** 30
const range = (least: number, most: number) => ({ requiredBytes: String(least), limitBytes: String(most) })
const refused = (code: string, message: string | RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) })
const thrownBy = (work: () => unknown) => {
  try {
    return work()
  } catch (error) {
    return error
  }
}

describe('The name of an object', () => {
  test('is that of the volume where it can be, and always one that Kubernetes takes', () => {
    expect(objectNameOf('pvc-3f2c')).toBe('pvc-3f2c')
    expect(objectNameOf('Volume-0A1B')).toMatch(/^volume-0a1b-[0-9a-f]{16}$/)
    expect(objectNameOf('...')).toMatch(/^volume-[0-9a-f]{16}$/)
    expect(objectNameOf('x'.repeat(128))).toMatch(/^x{40}-[0-9a-f]{16}$/)
    const names = fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }).filter(name => {
      return !/[\p{Cc}]/u.test(name) && Buffer.byteLength(name) <= 128
    })
    fc.assert(
      fc.property(names, names, (a, b) => {
        const [nameOfA, nameOfB] = [objectNameOf(a), objectNameOf(b)]
        expect(nameOfA).toMatch(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/)
        expect(nameOfA === nameOfB).toBe(a === b)
        const ref = { namespace: 'n'.repeat(63), name: nameOfA }
        expect(parseVolumeId(`${ref.namespace}/${ref.name}`)).toEqual(ref)
      }),
      { numRuns: 40 },
    )
  })

  test.each(['', 'x'.repeat(129), 'ü'.repeat(65), 'a\u0000b', 'a\u009fb'])('%j is refused', name => {
    expect(thrownBy(() => objectNameOf(name))).toEqual(refused('INVALID_ARGUMENT', /^name /))
  })

  test.each(['a', 'a/b/c', '../x', 'A/b', 'a/..', '/b', 'a/', 'a/b\n'])('%j is the id of no volume', id => {
    expect(parseVolumeId(id)).toBeUndefined()
  })
})

describe('A request for a volume', () => {
  test('becomes a disk', () => {
    const { disk, ref } = wantedVolume(
      request({
        name: 'Volume A',
        capacityRange: range(5 * GIB + 1, 6 * GIB),
        volumeCapabilities: [mounted('SINGLE_NODE_SINGLE_WRITER', 'xfs'), block],
        parameters: {
          pool: 'lab',
          poolNamespace: 'disks',
          allow: '10.0.0.0/8, ::1',
          iops: '500',
          readBytesPerSecond: '10Mi',
          'csi.storage.k8s.io/pvc/name': 'claim',
        },
        mutableParameters: { iops: '', deny: '10.0.0.1' },
      }),
      undefined,
    )
    expect(disk).toEqual({
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: {
        ...ref,
        labels: { 'ondemanddisk.dev/volume': '' },
        annotations: { 'ondemanddisk.dev/volume-name': 'Volume A', 'ondemanddisk.dev/pvc-name': 'claim' },
      },
      spec: {
        poolName: 'lab',
        size: 5 * GIB + 4096,
        filesystem: { type: 'xfs' },
        access: { allow: ['10.0.0.0/8', '::1'], deny: ['10.0.0.1'] },
        limits: { readBytesPerSecond: 10 * 2 ** 20 },
      },
    })
  })

  // mkfs failed, again and again, and CreateVolume never ended: of a claim of 100Mi with xfs, for one.
  test.each([
    ['ext4', 1, 2 ** 20],
    ['xfs', 100 * 2 ** 20, 300 * 2 ** 20],
    ['btrfs', 2 ** 20, 128 * 2 ** 20],
    ['xfs', 301 * 2 ** 20, 301 * 2 ** 20],
    ['xfs', 0, GIB],
  ])('has what %s needs at least, where %d bytes are asked for', (fsType, asked, size) => {
    const volumeCapabilities = [mounted('SINGLE_NODE_WRITER', fsType)]
    const wanted = wantedVolume(request({ volumeCapabilities, capacityRange: range(asked, 0) }), undefined)
    expect(wanted.disk).toMatchObject({ spec: { size } })
    for (const most of size > 2 ** 28 ? [200 * 2 ** 20] : [2 ** 19]) {
      const capacityRange = range(Math.min(asked, most), most)
      expect(thrownBy(() => wantedVolume(request({ volumeCapabilities, capacityRange }), undefined))).toEqual(
        refused('OUT_OF_RANGE', `${fsType} cannot be made`),
      )
    }
  })

  test('for a raw block volume makes no filesystem', () => {
    const { disk } = wantedVolume(request({ volumeCapabilities: [block] }), undefined)
    expect(disk).toMatchObject({ spec: { size: GIB, filesystem: { type: 'none' } } })
  })

  test.each<[string, Partial<CreateVolumeRequest>, string, RegExp]>([
    ['without a name', { name: '' }, 'INVALID_ARGUMENT', /^name/],
    ['without capabilities', { volumeCapabilities: [] }, 'INVALID_ARGUMENT', /^volume_capabilities/],
    [
      'with an empty capability',
      { volumeCapabilities: [{ accessMode: null }] },
      'INVALID_ARGUMENT',
      /Give block or mount/,
    ],
    [
      'without an access mode',
      { volumeCapabilities: [mounted('UNKNOWN')] },
      'INVALID_ARGUMENT',
      /access_mode is missing/,
    ],
    [
      'for many writers',
      { volumeCapabilities: [mounted('MULTI_NODE_MULTI_WRITER')] },
      'INVALID_ARGUMENT',
      /MULTI_NODE_MULTI_WRITER/,
    ],
    [
      'for many readers of what can be written',
      { volumeCapabilities: [mounted('MULTI_NODE_READER_ONLY')] },
      'INVALID_ARGUMENT',
      /readOnly/,
    ],
    ['for ntfs', { volumeCapabilities: [mounted('SINGLE_NODE_WRITER', 'ntfs')] }, 'INVALID_ARGUMENT', /ext4/],
    [
      'for two filesystems',
      { volumeCapabilities: [mounted(), mounted('SINGLE_NODE_WRITER', 'xfs')] },
      'INVALID_ARGUMENT',
      /both/,
    ],
    ['without a pool', { parameters: { poolNamespace: 'x' } }, 'INVALID_ARGUMENT', /^Parameter pool: /],
    ['without a namespace', { parameters: { pool: 'x' } }, 'INVALID_ARGUMENT', /^Parameter poolNamespace: /],
    [
      'with an unknown parameter',
      { parameters: { pool: 'x', poolNamespace: 'x', constructor: 'x' } },
      'INVALID_ARGUMENT',
      /"constructor"/,
    ],
    [
      'with an unknown mutable parameter',
      { mutableParameters: { pool: 'x' } },
      'INVALID_ARGUMENT',
      /no parameter "pool"/,
    ],
    [
      'with a wrong rule',
      { mutableParameters: { allow: '10.0.0.1/99' } },
      'InvalidSpec',
      /spec\.access\.allow\[0\]/,
    ],
    ['with no number', { mutableParameters: { iops: '1e3' } }, 'INVALID_ARGUMENT', /^Parameter iops: /],
    ['with a limit of 0', { mutableParameters: { iops: '0' } }, 'InvalidSpec', /spec\.limits\.iops/],
    [
      'with no size',
      { mutableParameters: { readBytesPerSecond: 'x' } },
      'INVALID_ARGUMENT',
      /readBytesPerSecond/,
    ],
    [
      'with no truth',
      { mutableParameters: { readOnly: 'yes' } },
      'INVALID_ARGUMENT',
      /^Parameter readOnly: /,
    ],
    ['for less than nothing', { capacityRange: range(-1, 0) }, 'INVALID_ARGUMENT', /negative/],
    ['for more than its limit', { capacityRange: range(2, 1) }, 'OUT_OF_RANGE', /limit_bytes/],
    ['for more than a disk has', { capacityRange: range(2 ** 60, 0) }, 'OUT_OF_RANGE', /required_bytes/],
    ['for no whole size', { capacityRange: range(4097, 4100) }, 'OUT_OF_RANGE', /multiple/],
  ])('%s is refused', (_, fields, code, message) => {
    expect(thrownBy(() => wantedVolume(request(fields), undefined))).toEqual(refused(code, message))
  })

  test('may read only, from many nodes', () => {
    const fields = { volumeCapabilities: [mounted('MULTI_NODE_READER_ONLY')] }
    expect(
      wantedVolume(request({ ...fields, mutableParameters: { readOnly: 'true' } }), undefined).disk,
    ).toMatchObject({
      spec: { readOnly: true },
    })
  })

  test('finds the volume that an earlier one has made, and no other', () => {
    const first = wantedVolume(request({ capacityRange: range(GIB, 0) }), undefined)
    const found = first.disk as OnDemandDisk
    const check = (fields: Partial<CreateVolumeRequest>) =>
      thrownBy(() => checkSame(found, wantedVolume(request(fields), undefined)))
    expect(check({ capacityRange: range(GIB, GIB) })).toBeUndefined()
    expect(check({ capacityRange: range(GIB / 2, 0) })).toBeUndefined()
    expect(check({ capacityRange: range(2 * GIB, 0) })).toEqual(refused('ALREADY_EXISTS', 'capacity_range'))
    expect(check({ capacityRange: range(0, GIB / 2) })).toEqual(refused('ALREADY_EXISTS', 'capacity_range'))
    expect(check({ volumeCapabilities: [block] })).toEqual(refused('ALREADY_EXISTS', 'filesystem ext4'))
    expect(check({ parameters: { pool: 'b', poolNamespace: 'disks' } })).toEqual(
      refused('ALREADY_EXISTS', 'pool lab'),
    )
    expect(check({ name: 'pvc-2' })).toEqual(refused('ALREADY_EXISTS', 'not been made'))
  })
})

test('A size is in its range, and the smallest that will do', () => {
  const bytes = fc.nat({ max: 2 ** 40 })
  fc.assert(
    fc.property(bytes, bytes, bytes, (least, most, wanted) => {
      const asked = thrownBy(() => parseRange(range(least, most)))
      if (asked instanceof Error) {
        expect(most).toBeLessThan(least)
        return
      }
      const size = thrownBy(() => sizeIn(parseRange(range(least, most)), wanted))
      if (typeof size !== 'number') {
        expect(
          Math.ceil(Math.max(least, 1) / 4096) * 4096 > (most || Number.MAX_SAFE_INTEGER) || wanted === 0,
        ).toBe(true)
        return
      }
      expect(size % 4096).toBe(0)
      expect(size).toBeGreaterThanOrEqual(least)
      if (most > 0) expect(size).toBeLessThanOrEqual(most)
    }),
  )
})

describe('Publication', () => {
  const on = (node: string, mode: AccessMode = 'SINGLE_NODE_WRITER', readonly = false): Publication => ({
    node,
    mode,
    readonly,
    ticket: node,
  })

  test('is to one node, which can be told again, but not otherwise', () => {
    const known = publish([], on('a'))
    expect(known).toEqual([on('a')])
    expect(publish(known, on('a'))).toBe(known)
    expect(thrownBy(() => publish(known, on('a', 'SINGLE_NODE_WRITER', true)))).toEqual(
      refused('ALREADY_EXISTS', 'to a '),
    )
    expect(thrownBy(() => publish(known, on('b')))).toEqual(refused('FAILED_PRECONDITION', 'the node a,'))
    expect(publish(unpublish(known, 'a'), on('b'))).toEqual([on('b')])
    // A call again has another ticket at hand; the node keeps its own.
    expect(publish(known, { ...on('a'), ticket: 'x' })).toBe(known)
    expect(patchOf(known)).toMatchObject({ spec: { access: { tickets: ['a'] } } })
    expect(patchOf([])).toEqual({
      metadata: { annotations: { 'ondemanddisk.dev/published': null } },
      spec: { access: { tickets: [] } },
    })
  })

  test('is to many that read only', () => {
    const readers = ['a', 'b', 'c'].map(node => on(node, 'MULTI_NODE_READER_ONLY', true))
    const known = readers.reduce<readonly Publication[]>(publish, [])
    expect(known).toEqual(readers)
    expect(thrownBy(() => publish(known, on('d')))).toEqual(refused('FAILED_PRECONDITION', 'the node a,'))
    expect(unpublish(known, 'b').map(({ node }) => node)).toEqual(['a', 'c'])
    expect(unpublish(known, '')).toEqual([])
  })

  test.each(['', '{}', '[1]', '[{"node":"a"}]', 'x'])('that is kept as %j is not taken for none', text => {
    const disk = {
      metadata: { name: 'a', namespace: 'b', annotations: { 'ondemanddisk.dev/published': text } },
    }
    expect(thrownBy(() => publicationsOf(disk))).toEqual(refused('FAILED_PRECONDITION', 'cannot be read'))
  })
})

test('A list in pages has each volume once, and a token that is none is refused', () => {
  const disks = ['b/x', 'a/y', 'a/x', 'a/new'].map(id => {
    const [namespace = '', name = ''] = id.split('/')
    const status = name === 'new' ? 'False' : 'True'
    return {
      metadata: { namespace, name },
      status: { size: 5, conditions: [{ type: 'Provisioned', status }] },
    } as unknown as OnDemandDisk
  })
  const ids: string[] = []
  let token = ''
  do {
    const page = listVolumes(disks, { maxEntries: 2, startingToken: token })
    expect(page.entries.length).toBeLessThanOrEqual(2)
    ids.push(...page.entries.map(({ volume }) => volume.volumeId))
    token = page.nextToken
  } while (token !== '')
  expect(ids).toEqual(['a/x', 'a/y', 'b/x'])
  expect(listVolumes(disks, { maxEntries: 0, startingToken: '' }).entries).toHaveLength(3)
  expect(thrownBy(() => listVolumes(disks, { maxEntries: 0, startingToken: 'invalid-token' }))).toEqual(
    refused('ABORTED', 'starting_token'),
  )
  expect(thrownBy(() => listVolumes(disks, { maxEntries: -1, startingToken: '' }))).toEqual(
    refused('INVALID_ARGUMENT', 'max_entries'),
  )
})

// Anybody who may edit one disk could keep the attacher from all.
test('A list has the other volumes, too, where the publications of one cannot be read', () => {
  const disks = ['good', 'bad'].map(name => ({
    metadata: {
      ...{ namespace: 'a', name },
      ...(name === 'bad' && { annotations: { 'ondemanddisk.dev/published': 'no JSON' } }),
    },
    status: { size: 5, conditions: [{ type: 'Provisioned', status: 'True' }] },
  })) as unknown as OnDemandDisk[]
  const { entries } = listVolumes(disks, { maxEntries: 0, startingToken: '' })
  expect(entries.map(({ volume, status }) => [volume.volumeId, status.publishedNodeIds])).toEqual([
    ['a/bad', []],
    ['a/good', []],
  ])
})
