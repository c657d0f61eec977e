import { describe, expect, test } from 'vitest'
import { diskJobName, poolNames, spareJobName } from './names.ts'
import { spareKey } from './spares.ts'

const UID = '6f0f4a0e-3f0e-4b3e-9d5e-0e8f5f1c2a3b'

describe('Names', () => {
  test.for([
    'a',
    'lab',
    'x'.repeat(52),
    'x'.repeat(53),
    'x'.repeat(63),
    `${'x'.repeat(42)}-----${'y'.repeat(16)}`,
  ])('of the parts of pool %s are labels that are not too long', pool => {
    const names = poolNames(pool)
    for (const name of Object.values(names)) expect(name).toMatch(/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/)
    expect(names.server.length).toBeLessThanOrEqual(52)
    expect(names.claim).toMatch(/-disks$/)
  })

  test('that are cut stay apart', () => {
    const [one, other] = ['1', '2'].map(end => poolNames('x'.repeat(60) + end))
    expect(one?.server).not.toBe(other?.server)
    expect(one?.claim).not.toBe(other?.claim)
  })

  test('of Jobs fit into the label that Kubernetes makes of them', () => {
    expect(diskJobName(UID).length).toBeLessThanOrEqual(63)
    expect(spareJobName(UID).length).toBeLessThanOrEqual(63)
  })
})

test('The key of spares changes with what a disk is made of, and with nothing else', () => {
  const template = {
    size: 2 ** 30,
    filesystem: { type: 'ext4' },
    mode: 'Persistent',
    readOnly: false,
    access: { allow: [], deny: [], connections: 1 },
    limits: {},
    reclaimPolicy: 'Delete',
  } as const
  const key = spareKey(template)
  expect(key).toMatch(/^[0-9a-f]{16}$/)
  expect(spareKey({ ...template, readOnly: true, filesystem: { type: 'ext4', mkfsOptions: [] } })).toBe(key)
  const { filesystem: _, ...bare } = template
  const others = [
    spareKey({ ...template, size: 2 ** 31 }),
    spareKey({ ...template, filesystem: { type: 'xfs' } }),
    spareKey({ ...template, filesystem: { type: 'ext4', label: 'x' } }),
    spareKey({ ...bare, command: 'x', variables: { a: '1', b: '2' } }),
    spareKey({ ...bare, command: 'x', variables: { a: '2', b: '1' } }),
  ]
  expect(new Set([key, ...others]).size).toBe(6)
  const turned = spareKey({ ...bare, command: 'x', variables: { b: '2', a: '1' } })
  expect(others).toContain(turned)
})
