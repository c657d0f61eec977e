import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { allot, type Claimant } from './allotment.ts'

const GIB = 2 ** 30

/** Disks `a`, `b`, ... in the order of their age. */
function disks(...list: Partial<Claimant>[]): Claimant[] {
  return list.map((disk, index) => ({
    uid: String.fromCharCode(97 + index),
    createdAt: `2026-01-01T00:00:0${index}Z`,
    size: GIB,
    started: false,
    ...disk,
  }))
}

const refusals = (map: ReturnType<typeof allot>) =>
  [...map].filter(([, { refusal }]) => refusal).map(([uid, { refusal }]) => `${uid} ${refusal?.reason}`)

describe('Places of a pool', () => {
  test('go to all where there is no limit', () => {
    expect(refusals(allot(disks({}, {}, {}), {}))).toEqual([])
  })

  test('go to the oldest, and to a smaller one behind one that does not fit', () => {
    const list = disks({ size: GIB }, { size: 5 * GIB }, { size: GIB })
    expect(refusals(allot(list, { quota: 2 * GIB }))).toEqual(['b QuotaExceeded'])
  })

  test('are kept by disks that are there, also when the limits shrink', () => {
    const list = disks({}, {}, { started: true }, { started: true })
    expect(refusals(allot(list, { maxDisks: 1, quota: 1 }))).toEqual(['a TooManyDisks', 'b TooManyDisks'])
    expect(refusals(allot(list, { maxDisks: 3 }))).toEqual(['b TooManyDisks'])
  })

  test('growth comes before new disks, and is refused without taking what is there', () => {
    const list = disks({}, { size: 3 * GIB, currentSize: GIB, started: true })
    expect(refusals(allot(list, { quota: 3 * GIB }))).toEqual(['a QuotaExceeded'])
    const map = allot(list, { quota: 2.5 * GIB })
    expect(map.get('b')).toMatchObject({ size: GIB, refusal: { reason: 'QuotaExceeded' } })
    expect(map.get('a')).toEqual({ size: GIB })
  })

  test('that take no bytes are not counted in the quota', () => {
    expect(refusals(allot(disks({ size: 0 }), { quota: 1 }))).toEqual([])
  })

  test('a refusal names the limit', () => {
    const map = allot(disks({ size: 3 * GIB }), { quota: 2 * GIB })
    expect(map.get('a')?.refusal?.message).toMatch(/3 GiB.*0 B of 2 GiB.*spec\.quota/)
    expect(allot(disks({}), { maxDisks: 0 }).get('a')?.refusal?.message).toContain('spec.onDemand.maxDisks')
  })
})

test('New disks never go beyond a limit, in whatever order they are seen', () => {
  const claimant = fc.record({
    uid: fc.uuid(),
    createdAt: fc.constantFrom('2026-01-01T00:00:00Z', '2026-01-01T00:00:01Z'),
    size: fc.integer({ min: 0, max: 10 }),
    started: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.uniqueArray(claimant, { selector: ({ uid }) => uid, maxLength: 12 }),
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 12 }),
      (list, quota, maxDisks) => {
        const map = allot(list, { quota, maxDisks })
        expect([...allot([...list].reverse(), { quota, maxDisks })].sort()).toEqual([...map].sort())
        const there = list.filter(({ started }) => started)
        const admitted = list.filter(({ uid }) => map.get(uid)?.size !== undefined)
        const bytes = (of: readonly { size: number }[]) => of.reduce((sum, { size }) => sum + size, 0)
        expect(admitted.length).toBeLessThanOrEqual(Math.max(maxDisks, there.length))
        expect(bytes(admitted)).toBeLessThanOrEqual(Math.max(quota, bytes(there)))
      },
    ),
  )
})
