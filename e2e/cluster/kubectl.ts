import { join } from 'node:path'
import { checkout, type Ended, type RunOptions, run } from '../harness.ts'

const tools = join(checkout, 'hack/tools/node_modules/.bin')

/** Runs kubectl on one cluster. Throws, quoting what it said, unless its status is 0. */
export type Kubectl = (args: readonly string[], options?: RunOptions) => Promise<string>

/** kubectl for the cluster of this kubeconfig. */
export const kubectl =
  (kubeconfig: string): Kubectl =>
  async (args, options) => {
    const { status, stdout, stderr } = await tool('kubectl', kubeconfig, args, options)
    if (status !== 0) throw new Error(`kubectl ${args.join(' ')} ended with ${status}:\n${stdout}${stderr}`)
    return stdout
  }

/** helm for the cluster of this kubeconfig; how it ended is the caller's to judge. */
export const helm = (kubeconfig: string, args: readonly string[], options?: RunOptions): Promise<Ended> =>
  tool('helm', kubeconfig, args, options)

const tool = (name: string, kubeconfig: string, args: readonly string[], options: RunOptions = {}) =>
  run(join(tools, name), args, {
    timeout: 120_000,
    ...options,
    env: { ...options.env, KUBECONFIG: kubeconfig },
  })
