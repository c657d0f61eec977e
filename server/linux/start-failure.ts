/** Why a program was not started. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/**
 * The error of a child that has no process id, to be asked for before anything else is done with it; its pipes are given
 * back. Where no descriptor is left it has none, nor even the list of them that Node's type promises.
 */
export async function startFailure(child: ChildProcess): Promise<NodeJS.ErrnoException> {
  for (const stream of (child.stdio as ChildProcess['stdio'] | undefined) ?? []) stream?.destroy()
  const [error] = (await once(child, 'error')) as [NodeJS.ErrnoException]
  return error
}
