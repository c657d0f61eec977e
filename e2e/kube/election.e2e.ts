/** Operators in processes of their own: one acts, and when it is killed the next one does, soon. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LEASES } from '../../operator/kube/objects.ts'
import { checkout } from '../harness.ts'
import { type ControlPlane, startControlPlane } from './control-plane.ts'

let plane: ControlPlane
const running = new Set<ChildProcess>()

beforeAll(async () => {
  plane = await startControlPlane()
  await plane.installCrds()
}, 20 * 60_000)
afterAll(async () => {
  for (const child of running) child.kill('SIGKILL')
  await plane?.[Symbol.asyncDispose]()
})

const NAME = { namespace: 'default', name: 'ondemand-disk-operator' }
const holder = async () => (await plane.client.find(LEASES, NAME))?.spec?.holderIdentity

/** Starts an operator; resolves when it knows all objects, before it acts. */
async function startOperator() {
  const child = spawn(
    join(checkout, 'hack/ondemand-disk-operator'),
    [
      'run',
      '--kubeconfig',
      plane.kubeconfig,
      '--image',
      'none',
      '--lease-namespace',
      'default',
      '--metrics',
      '127.0.0.1:0',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  running.add(child)
  const ended = once(child, 'close').then(([code]: (number | null)[]) => code)
  const said: string[] = []
  const waiting = new Map<string, (at: number) => void>()
  let metrics = ''
  createInterface(child.stderr).on('line', line => {
    const { msg, uri } = JSON.parse(line) as { msg: string; uri?: string }
    if (msg === 'Serving metrics') metrics = uri ?? ''
    said.push(msg)
    waiting.get(msg)?.(performance.now())
  })
  /** When it says this, by `performance.now()`. */
  const says = (text: string): Promise<number> =>
    said.includes(text)
      ? Promise.resolve(performance.now())
      : Promise.race([
          new Promise<number>(resolve => waiting.set(text, resolve)),
          ended.then(code => {
            throw new Error(`It ended with ${code} before it said "${text}":\n${said.join('\n')}`)
          }),
        ])
  await says('Knows all objects')
  const probe = async (path: string) => {
    const response = await fetch(`${metrics}${path}`)
    return { status: response.status, text: await response.text() }
  }
  return { child, says, said, ended, probe }
}

/** The selectors of the chart's alerts for what an operator tells: a family of metrics, a label, and its values. */
function selectorsOfAlerts() {
  const text = readFileSync(join(checkout, 'helm/ondemand-disk/files/alerts.yaml'), 'utf8')
  const selector = /\b(controller_runtime|workqueue|leader_election)_\w+\{(\w+)=~?"([^"]+)"\}/g
  return [...text.matchAll(selector)].map(([whole, family = '', label = '', values = '']) => ({
    whole,
    family,
    label,
    values: values.split('|'),
  }))
}

// Those for controllers named "disk" and "pool", of which there are none, could never fire.
test('the alerts of the chart look for controllers that there are, and for all of them', async () => {
  const operator = await startOperator()
  await operator.says('Acting')
  const { text } = await operator.probe('/metrics')
  const selectors = selectorsOfAlerts()
  expect(selectors.length).toBeGreaterThan(2)
  for (const { whole, family, label, values } of selectors) {
    const told = text.matchAll(new RegExp(`^${family}_\\w+\\{(?:.*,)?${label}="([^"]+)"`, 'gm'))
    const names = [...new Set([...told].map(([, value = '']) => value))]
    const isAt = (value: string, name: string) => new RegExp(`^(?:${value})$`).test(name)
    expect(
      values.filter(value => !names.some(name => isAt(value, name))),
      whole,
    ).toEqual([])
    expect(
      names.filter(name => !values.some(value => isAt(value, name))),
      whole,
    ).toEqual([])
  }
  operator.child.kill('SIGTERM')
  expect(await operator.ended).toBe(0)
})

// The 20 s are of a machine that is not busy with all else: it may be tried again.
test('of two operators one acts; the other does when the first is killed, within 20 s, or when it stops, at once', {
  retry: 2,
  timeout: 120_000,
}, async () => {
  // Those of an earlier try.
  for (const child of running) child.kill('SIGKILL')
  const first = await startOperator()
  await first.says('Acting')
  const second = await startOperator()
  const firstHolder = await holder()
  expect(second.said).not.toContain('Acting')
  // Both are ready; one leads.
  for (const [operator, leads] of [
    [first, 1],
    [second, 0],
  ] as const) {
    expect(await operator.probe('/readyz')).toEqual({ status: 200, text: 'ready\n' })
    expect((await operator.probe('/metrics')).text).toContain(
      `\nleader_election_master_status{name="ondemand-disk-operator"} ${leads}\n`,
    )
  }

  const killedAt = performance.now()
  first.child.kill('SIGKILL')
  const actsAt = await second.says('Acting')
  expect(actsAt - killedAt).toBeLessThan(20_000)
  expect(actsAt - killedAt).toBeGreaterThan(10_000)
  expect(await holder()).not.toBe(firstHolder)

  const third = await startOperator()
  const stoppedAt = performance.now()
  second.child.kill('SIGTERM')
  // It is given back, so that only the next try has to come: after 2 to 4.4 s.
  expect((await third.says('Acting')) - stoppedAt).toBeLessThan(10_000)
  expect(await second.ended).toBe(0)

  // One whose Lease was taken by another ends at once, and says why.
  const lease = await plane.client.get(LEASES, NAME)
  await plane.client.update(LEASES, { ...lease, spec: { ...lease.spec, holderIdentity: 'thief' } })
  expect(await third.ended).toBe(1)
  expect(third.said).toContain('The Lease is lost')
})
