import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AttachedDisk } from '../../../server/attach/attach.ts'
import type { Mount } from '../../../server/fuse/mountinfo.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { type Observed, planPublish, planStage, planUnstage } from './plan.ts'

const STAGING = '/staging'
const disk = (fields: Partial<AttachedDisk> = {}): AttachedDisk => ({
  device: '/dev/loop1',
  via: 'fuse',
  uri: 'nbd://a/x',
  readOnly: false,
  pid: 1,
  ...fields,
})
const mounted = (mountpoint: string, source = '/dev/loop1', fields: Partial<Mount> = {}): Mount => ({
  device: '7:1',
  root: '/',
  mountpoint,
  readOnly: false,
  type: 'ext4',
  source,
  ...fields,
})
const wanted = { uri: 'nbd://a/x', readOnly: false }
const target = { staging: STAGING, target: '/a', readOnly: false, exclusive: false }

const codeOf = (work: () => unknown) => {
  try {
    return work()
  } catch (error) {
    if (error instanceof RpcError) return error.code
    throw error
  }
}

describe('Staging', () => {
  test.for<[string, Partial<Observed>, unknown]>([
    ['nothing is there', {}, ['attach', 'mount']],
    ['it is attached', { disk: disk() }, ['attach', 'mount']],
    ['it is staged', { disk: disk(), mounts: [mounted(STAGING)] }, []],
    ['it lost its device', { mounts: [mounted(STAGING)] }, ['unmount', 'attach', 'mount']],
    [
      'it has another device now',
      { disk: disk({ device: '/dev/loop2' }), mounts: [mounted(STAGING)] },
      ['unmount', 'attach', 'mount'],
    ],
    [
      'it was staged by an earlier publication',
      { disk: disk({ uri: 'nbd://a/y' }), mounts: [mounted(STAGING)] },
      ['unmount', 'release', 'attach', 'mount'],
    ],
    [
      'its device is lost while it is in use',
      { mounts: [mounted(STAGING), mounted('/a')] },
      'FAILED_PRECONDITION',
    ],
    [
      'an earlier publication is in use',
      { disk: disk({ readOnly: true }), mounts: [mounted('/a')] },
      'FAILED_PRECONDITION',
    ],
  ])('%s', ([, observed, expected]) => {
    expect(codeOf(() => planStage({ mounts: [], disk: undefined, ...observed }, STAGING, wanted))).toEqual(
      expected,
    )
  })
})

describe('Unstaging', () => {
  test.for<[string, Partial<Observed>, unknown]>([
    ['nothing is there', {}, []],
    ['it is staged', { disk: disk(), mounts: [mounted(STAGING)] }, ['release', 'unmount']],
    [
      'the kernel’s driver has it',
      { disk: disk({ via: 'nbd' }), mounts: [mounted(STAGING)] },
      ['unmount', 'release'],
    ],
    ['it was released', { mounts: [mounted(STAGING)] }, ['unmount']],
    ['it was unmounted, or never mounted', { disk: disk() }, ['release']],
    ['it is published', { disk: disk(), mounts: [mounted(STAGING), mounted('/a')] }, 'FAILED_PRECONDITION'],
  ])('%s', ([, observed, expected]) => {
    expect(codeOf(() => planUnstage({ mounts: [], disk: undefined, ...observed }, STAGING))).toEqual(expected)
  })
})

describe('Publishing', () => {
  const staged = mounted(STAGING)
  test.for<[string, readonly Mount[], object, unknown]>([
    ['not staged', [], {}, 'FAILED_PRECONDITION'],
    ['staged', [staged], {}, ['bind']],
    ['read-only', [staged], { readOnly: true }, ['bind', 'protect']],
    ['there', [staged, mounted('/a')], {}, []],
    ['bound, and not protected yet', [staged, mounted('/a')], { readOnly: true }, ['protect']],
    ['there, read-only', [staged, mounted('/a', '/dev/loop1', { readOnly: true })], {}, 'ALREADY_EXISTS'],
    ['something else is there', [staged, mounted('/a', '/dev/sda')], {}, 'ALREADY_EXISTS'],
    ['at two places', [staged, mounted('/b')], {}, ['bind']],
    ['at two places, for one', [staged, mounted('/b')], { exclusive: true }, 'FAILED_PRECONDITION'],
    ['again, for one', [staged, mounted('/a')], { exclusive: true }, []],
  ])('%s', ([, mounts, fields, expected]) => {
    expect(codeOf(() => planPublish({ mounts, disk: disk() }, { ...target, ...fields }))).toEqual(expected)
  })
})

test('A device that is bound to a file is known by that', () => {
  const bound = mounted('/staging/device', 'udev', { root: '/loop1', type: 'devtmpfs' })
  expect(planStage({ mounts: [bound], disk: disk() }, '/staging/device', wanted)).toEqual([])
})

/** The world as the steps change it. */
function after({ mounts, disk: known }: Observed, step: string): Observed {
  if (step === 'unmount')
    return { mounts: mounts.filter(({ mountpoint }) => mountpoint !== STAGING), disk: known }
  if (step === 'release') return { mounts, disk: undefined }
  if (step === 'attach') return { mounts, disk: known ?? disk({ device: '/dev/loop9' }) }
  return { mounts: [...mounts, mounted(STAGING, known?.device)], disk: known }
}

test('Wherever staging and unstaging are cut off, they end where they should when they are begun again', () => {
  const observed = fc.record({
    mounts: fc.subarray([mounted(STAGING), mounted(STAGING, '/dev/loop2')]),
    disk: fc.constantFrom(undefined, disk(), disk({ uri: 'nbd://a/y' }), disk({ readOnly: true })),
  })
  fc.assert(
    fc.property(observed, fc.array(fc.nat(4), { maxLength: 6 }), fc.boolean(), (start, cuts, isStaging) => {
      const plan = (now: Observed) =>
        isStaging ? planStage(now, STAGING, wanted) : planUnstage(now, STAGING)
      let now: Observed = start
      for (const cut of [...cuts, 9]) for (const step of plan(now).slice(0, cut)) now = after(now, step)
      expect(plan(now)).toEqual([])
      expect(now.mounts.some(({ mountpoint }) => mountpoint === STAGING)).toBe(isStaging)
      expect(now.disk?.uri).toBe(isStaging ? wanted.uri : undefined)
    }),
  )
})
