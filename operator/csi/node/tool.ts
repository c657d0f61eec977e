/** Programs of the system that work on filesystems. */
import { spawn } from 'node:child_process'
import { reasonOf } from '../../../server/backends/disks/run.ts'
import { startFailure } from '../../../server/linux/start-failure.ts'
import { RpcError } from '../rpc/rpc-error.ts'

/** Bytes that are kept of what a program says. */
const KEPT = 8192

/** How a program ended, and what it said last. */
interface Ended {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs a program to its end; it is not cut short, since that could cost more than waiting for it.
 * @throws RpcError FAILED_PRECONDITION where it cannot be run
 */
export async function run(name: string, args: readonly string[]): Promise<Ended> {
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } })
  if (child.pid === undefined) {
    const cause = await startFailure(child)
    throw new RpcError('FAILED_PRECONDITION', `Cannot run ${name} on this node.`, { cause })
  }
  const said = { stdout: '', stderr: '' }
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (chunk: string) => {
      said[stream] = (said[stream] + chunk).slice(-KEPT)
    })
  }
  const status = await new Promise<number>(resolve => child.once('close', code => resolve(code ?? -1)))
  return { status, ...said }
}

/** Runs a program. @throws RpcError FAILED_PRECONDITION with what it said, unless its status is one of the good ones */
export async function tool(
  name: string,
  args: readonly string[],
  good: readonly number[] = [0],
): Promise<void> {
  const { status, stdout, stderr } = await run(name, args)
  if (good.includes(status)) return
  const reason = reasonOf(stderr) ?? reasonOf(stdout) ?? 'It said nothing.'
  throw new RpcError('FAILED_PRECONDITION', `${name} ended with status ${status}. ${reason}`)
}
