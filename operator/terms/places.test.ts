import fc from 'fast-check'
import { expect, test } from 'vitest'
import { allot, type Claimant, type PoolLimits } from './allotment.ts'
import { createPlaces } from './places.ts'

const id = fc.nat(11)
const size = fc.constantFrom(0, 1, 2, 3, 7)
const op = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('new' as const), id, size, age: fc.nat(3) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('start', 'start unheard', 'make'), id }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('resize' as const, 'has' as const), id, size }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('delete' as const), id }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('limits' as const),
      limits: fc.record({
        quota: fc.option(fc.integer({ min: 1, max: 25 }), { nil: undefined }),
        maxDisks: fc.option(fc.integer({ min: 1, max: 8 }), { nil: undefined }),
        snapshots: fc.nat(3),
      }),
    }),
  },
)

test('What is remembered is what counting them all finds', () => {
  fc.assert(
    fc.property(fc.array(op, { maxLength: 60 }), ops => {
      const places = createPlaces()
      const disks = new Map<string, Claimant>()
      const told = new Map<string, string | undefined>()
      let limits: PoolLimits = { quota: 12, maxDisks: 5 }
      let made = 0
      for (const each of ops) {
        const uid = 'id' in each ? `uid-${each.id}` : ''
        const old = disks.get(uid)
        const set = (claimant: Claimant) => {
          disks.set(uid, claimant)
          places.set(claimant)
        }
        if (each.kind === 'limits') limits = each.limits
        else if (each.kind === 'new') {
          // Now and then one that is older than what was there, as another clock of a second API server has it.
          const createdAt = String(made++ - (each.age === 3 ? 5 : 0)).padStart(4, '0')
          if (!old) set({ uid, createdAt, size: each.size, started: false })
        } else if (old) {
          const isRefused = allot(disks.values(), limits).get(uid)?.refusal !== undefined
          if (each.kind === 'delete') {
            disks.delete(uid)
            places.delete(uid)
          } else if (each.kind === 'resize') set({ ...old, size: each.size })
          else if (each.kind === 'has') {
            // Only what is made has a size of its own.
            if (old.started) set({ ...old, currentSize: each.size })
          }
          // Made by somebody who has not asked.
          else if (each.kind === 'make') set({ ...old, started: true })
          else if (!isRefused && each.kind === 'start') set({ ...old, started: true })
          else if (!isRefused) disks.set(uid, { ...old, started: true })
        }
        const expected = allot(disks.values(), limits)
        for (const known of disks.keys()) {
          const found = places.refusal(known, limits, () => disks.values())
          const reason = expected.get(known)?.refusal?.reason
          expect(found === undefined, known).toBe(reason === undefined)
          // A disk that is too large for the quota stays so when maxDisks would keep it out, too, by now.
          expect([reason, told.get(known)]).toContain(found?.reason)
          told.set(known, found?.reason)
        }
      }
    }),
    { numRuns: 300 },
  )
})
