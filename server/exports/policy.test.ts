import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { admissionRefusal } from '../../crds/access-rules.ts'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { NOBODY, type Policy, parsePolicy } from './policy.ts'
import { followPolicy } from './policy-file.ts'

const admits = ({ access }: Policy, address: string) =>
  admissionRefusal(access, { kind: 'ip', address }) === undefined

describe('A policy', () => {
  test('may leave everything out', () => {
    const policy = parsePolicy('{}', false)
    expect(admits(policy, '10.0.0.1')).toBe(true)
    expect(policy).toMatchObject({ maxConnections: 4096, maxConnectionsPerClient: 4096 })
  })

  test('says who may connect and what one may use', () => {
    const text = '{"deny":["10.0.0.1"],"maxConnections":7,"limits":{"iops":5,"readBytesPerSecond":4096}}'
    const policy = parsePolicy(text, false)
    expect([admits(policy, '10.0.0.1'), admits(policy, '10.0.0.2')]).toEqual([false, true])
    expect(policy).toMatchObject({ maxConnections: 7, maxConnectionsPerClient: 7 })
    expect(policy.limits).toMatchObject({ iops: 5, readBytesPerSecond: 4096 })
  })

  test.for([
    ['', 'not JSON'],
    ['[]', 'an object'],
    ['{"alow":[]}', '"alow"'],
    ['{"allow":"any"}', 'allow: '],
    ['{"allow":["10.0.0/8"]}', 'allow[0]'],
    ['{"deny":["dn:CN=x"]}', 'deny[0]: "dn:CN=x" needs TLS'],
    ['{"maxConnections":0}', 'maxConnections: '],
    ['{"maxConnections":"5"}', 'maxConnections: '],
    ['{"limits":{"iop":1}}', 'limits: '],
    ['{"limits":null}', 'limits: '],
    ['{"limits":{"iops":1.5}}', 'iops: '],
  ])('that is wrong is refused: %s', ([text = '', reason]) => {
    expect(() => parsePolicy(text, false)).toThrow(reason)
  })

  test('may ask for certificates where there is TLS', () => {
    expect(parsePolicy('{"allow":["dn:CN=x"]}', true).access.allow).toHaveLength(1)
  })
})

test('A file is followed, and whatever is wrong with it opens nothing', async () => {
  const path = join(makeDirectory(), 'policy.json')
  const changes: Policy[] = []
  const problems: string[] = []
  const file = await followPolicy(path, {
    tls: false,
    onChange: policy => changes.push(policy),
    onMissing: () => problems.push('missing'),
    onProblem: ({ message }) => problems.push(message),
  })
  onTestFinished(() => file.close())
  const write = async (text: string) => {
    writeFileSync(`${path}.new`, text)
    renameSync(`${path}.new`, path)
    await file.refresh()
  }
  expect(file.policy).toBe(NOBODY)
  expect(admits(file.policy, '10.0.0.1')).toBe(false)
  await write('{"allow":')
  expect(admits(file.policy, '10.0.0.1')).toBe(false)
  await write('{"allow":["10.0.0.1"]}')
  expect(admits(file.policy, '10.0.0.1')).toBe(true)
  await write('{"allow":["10.0.0.300"]}')
  await file.refresh()
  expect([admits(file.policy, '10.0.0.1'), admits(file.policy, '10.0.0.2')]).toEqual([true, false])
  rmSync(path)
  await file.refresh()
  expect(admits(file.policy, '10.0.0.1')).toBe(true)
  expect(changes).toHaveLength(1)
  expect(problems).toHaveLength(4)
  expect(problems[3]).toBe(`${path}: The file is gone.`)
  writeFileSync(path, '{"deny":["any"]}')
  await expect.poll(() => admits(file.policy, '10.0.0.1')).toBe(false)
})
