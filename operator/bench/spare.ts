/** How long a client waits that connects to a new name where a spare is left: operator, agent and server for real. */
import { setTimeout as sleep } from 'node:timers/promises'
import { firstByteScript } from '../../e2e/first-byte.ts'
import { check } from '../../e2e/harness.ts'
import { startPool } from '../../e2e/kube/pool.ts'
import { report } from './report.ts'

const CLIENTS = 20
/** Clients come one after the other, so far apart, in s: who comes next does not pay for what the last one left to do. */
const APART = 0.5

export async function measureSpares(): Promise<void> {
  process.stderr.write('A pool with spares\n')
  const template = { size: '64Mi', filesystem: { type: 'ext4' } }
  // One to begin with: the first answer of programs that have just started is not what clients wait for.
  await using pool = await startPool({ onDemand: { enabled: true, template, spares: CLIENTS + 1 } })
  const limit = performance.now() + 120_000
  while (((await pool.pool()).status?.spares ?? 0) !== CLIENTS + 1) {
    if (performance.now() > limit) throw new Error('The spares are not there after 120 s.')
    await sleep(200)
  }
  const uris = Array.from({ length: CLIENTS + 1 }, (_, index) => pool.uri(`client-${index}`))
  const said = await check('/usr/bin/python3', ['-c', firstByteScript(APART), ...uris], { timeout: 120_000 })
  const [, ...times] = said.trim().split('\n').map(Number)
  times.sort((one, other) => one - other)
  const median = times[Math.floor(times.length / 2)] ?? Number.NaN
  report(`connect to first byte with a spare, median of ${CLIENTS}`, median, 'ms', { atMost: 50 })
  report('  the slowest', times.at(-1) ?? Number.NaN, 'ms')
}
