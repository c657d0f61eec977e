/**
 * A second node on the machine of the tests: a driver whose processes and mounts nobody else has, so that it finds the
 * devices of its own node only. What is shared is the kernel.
 */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Driver, startDriver } from './driver.ts'

export interface NodeApart extends AsyncDisposable {
  readonly driver: Driver
  /** How a path of this node is reached from outside. */
  path(path: string): string
  /** Stops all its processes where they are, as a hypervisor does with a machine; its connections stay open. */
  freeze(): Promise<void>
  wake(): Promise<void>
}

/** Unmounting is told to the namespace, mounting in it is told to nobody. */
const APART = [
  'unshare',
  '--pid',
  '--fork',
  '--kill-child',
  '--mount',
  '--propagation',
  'slave',
  '--mount-proc',
]

export async function startNodeApart(nodeId: string): Promise<NodeApart> {
  const driver = await startDriver(['--services', 'node', '--node-id', nodeId], APART)
  const first = (await readFile(`/proc/${driver.pid}/task/${driver.pid}/children`, 'utf8')).trim()
  const namespaceOf = (pid: string) => readlink(`/proc/${pid}/ns/pid`).catch(() => undefined)
  const own = await namespaceOf(first)

  async function others(): Promise<readonly string[]> {
    const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name) && name !== first)
    const namespaces = await Promise.all(pids.map(namespaceOf))
    return pids.filter((_, index) => namespaces[index] === own)
  }
  const signal = (pids: readonly string[], name: NodeJS.Signals) => {
    for (const pid of pids) process.kill(Number(pid), name)
  }
  const wake = async () => signal([first, ...(await others())], 'SIGCONT')

  return {
    driver,
    path: path => `/proc/${first}/root${path}`,
    freeze: async () => signal([first, ...(await others())], 'SIGSTOP'),
    wake,
    /**
     * Who serves devices is killed before the mounts of the node go: if it were the last with a mount of its own device, the
     * kernel would wait for it while it ends it.
     */
    async [Symbol.asyncDispose]() {
      await wake()
      signal(await others(), 'SIGKILL')
      while ((await others()).length > 0) await sleep(20)
      await driver[Symbol.asyncDispose]()
    },
  }
}
