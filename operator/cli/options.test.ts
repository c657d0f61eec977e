import { describe, expect, test } from 'vitest'
import { UsageError } from '../../server/cli/options.ts'
import { parseAgentOptions } from './agent-options.ts'
import { parseCsiOptions } from './csi-options.ts'
import { parseRunOptions } from './run-options.ts'

const usage = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError)
    return (error as UsageError).message
  }
  return expect.unreachable('it was obeyed')
}

test('run needs an image, and all else has a default', () => {
  expect(parseRunOptions(['--image', 'x'])).toEqual({
    image: 'x',
    workers: 16,
    'kube-api-qps': 0,
    'image-pull-secret': [],
    'agent-cluster-role': 'ondemand-disk-agent',
    'no-leader-election': false,
    'lease-name': 'ondemand-disk-operator',
    'log-level': 'info',
    help: false,
    version: false,
  })
  expect(usage(() => parseRunOptions([]))).toMatch(/^--image is missing\. /)
})

test('agent needs a pool, and all else has a default', () => {
  expect(parseAgentOptions(['--pool', 'p', '--namespace=n', '--metrics', '[::]:8081'])).toMatchObject({
    pool: 'p',
    namespace: 'n',
    dir: '/pool',
    manifests: '/manifests',
    control: '/control/nbd.sock',
    ask: '/control/agent.sock',
    policy: '/control/policy.json',
    metrics: { host: '::', port: 8081 },
  })
  expect(usage(() => parseAgentOptions(['--namespace', 'n']))).toMatch(/^--pool is missing\. /)
})

test('csi runs on a node with a name as long as Kubernetes allows', () => {
  // It was refused behind 128 bytes, CSI's bound for other texts, and the pod of such a node failed for ever.
  const parse = (bytes: number) =>
    parseCsiOptions(['--endpoint=unix:///s', '--services=node', `--node-id=${'n'.repeat(bytes)}`])
  expect(parse(253)['node-id']).toHaveLength(253)
  expect(usage(() => parse(257))).toMatch(/^--node-id: /)
})

describe('what cannot be obeyed names its option', () => {
  test.each([
    ['--namespace', 'Kube_system'],
    ['--namespace', 'a'.repeat(64)],
    ['--workers', '0'],
    ['--workers', '1e3'],
    ['--kube-api-qps', '-1'],
    ['--image', ''],
    ['--image-pull-policy', 'always'],
    ['--metrics', '8080'],
    ['--log-level', 'trace'],
    ['--lease-name', '../x'],
  ])('%s %s', (option, value) => {
    expect(usage(() => parseRunOptions(['--image=x', option, value]))).toMatch(new RegExp(`^${option}[: ]`))
  })

  test.each([
    ['--control', `/${'x'.repeat(107)}`],
    ['--pool', 'P'],
    ['--dir', ''],
  ])('agent %s %s', (option, value) => {
    expect(usage(() => parseAgentOptions(['--pool=p', option, value]))).toMatch(new RegExp(`^${option} ?`))
  })

  test('a misspelt option', () => {
    expect(usage(() => parseRunOptions(['--imag', 'x']))).toBe('Unknown option --imag. Did you mean --image?')
  })
})
