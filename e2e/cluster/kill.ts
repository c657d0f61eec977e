import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { check, checkout } from '../harness.ts'
import type { Cluster, KubeObject } from './harness.ts'

const STATE = join(process.env.XDG_CACHE_HOME ?? '/var/cache', 'ondemand-disk/cluster')
const CONTAINERD = '/run/ondemand-disk-cluster/containerd.sock'

/** SIGKILL to a process of hack/cluster's node; one that has ended meanwhile is as good. */
function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/**
 * Crashes a container: by SIGKILL from outside on hack/cluster's node; elsewhere its pod is deleted without grace,
 * which is the nearest to it that the API offers. Returns false where it does not run.
 */
export async function crashContainer(
  cluster: Cluster,
  pod: KubeObject | undefined,
  name: string,
): Promise<boolean> {
  const status = pod?.status?.containerStatuses?.find((entry: KubeObject) => entry.name === name)
  if (status?.state?.running === undefined) return false
  const { namespace, name: podName } = pod.metadata
  if (!cluster.own) {
    await cluster.kubectl(['delete', 'pod', '-n', namespace, podName, '--grace-period=0', '--force'])
    return true
  }
  const id = status.containerID.replace('containerd://', '')
  const tasks = await check('ctr', ['-a', CONTAINERD, '-n', 'k8s.io', 'tasks', 'ls'])
  const pid = Number(new RegExp(`^${id}\\s+(\\d+)\\s+RUNNING`, 'm').exec(tasks)?.[1])
  if (!(pid > 0)) return false
  kill(pid)
  return true
}

/** Tries to start the API server again: without it, nothing else could tell what is wrong. */
const STARTS = 3

/** Kills hack/cluster's API server, leaves it dead for so many ms, and starts it again. */
export async function crashApiServer(deadFor: number): Promise<void> {
  const [pid] = (await readFile(join(STATE, 'pid/apiserver'), 'utf8')).split(' ')
  kill(Number(pid))
  await sleep(deadFor)
  // It takes a while to die, and `up` leaves alone what is alive.
  while (existsSync(`/proc/${pid}/fd/0`)) await sleep(10)
  for (let attempt = 1; ; attempt++) {
    try {
      await check(join(checkout, 'hack/cluster/up'), [], { timeout: 180_000 })
      return
    } catch (error) {
      if (attempt === STARTS) throw error
      process.stdout.write(`The API server is not up again: ${error}\n`)
    }
  }
}
