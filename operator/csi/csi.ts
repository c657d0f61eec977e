/** The CSI driver: its services on one socket. */
import type { KubeClient } from '../kube/client.ts'
import type { KubeLog } from '../kube/log.ts'
import { controller } from './controller/controller.ts'
import { followVolumes } from './controller/volumes.ts'
import { identity } from './identity.ts'
import { node } from './node/node.ts'
import { installOutside } from './node/outside.ts'
import { watchVolumes } from './node/watch.ts'
import { loadServices } from './protocol/definition.ts'
import type { ControllerMethods, IdentityMethods, NodeMethods } from './protocol/messages.ts'
import { listen, type Served, serves } from './rpc/listen.ts'

/** What the driver works with. */
export interface CsiTerms {
  /** Needed by the Controller service only. */
  readonly client: KubeClient | undefined
  readonly options: {
    /** Path of the unix socket. */
    readonly endpoint: string
    /** The only namespace to work in; undefined: all. */
    readonly namespace: string | undefined
    readonly 'node-id'?: string | undefined
    readonly 'host-dir'?: string | undefined
    readonly services: readonly ('controller' | 'node')[]
  }
  readonly log: KubeLog
}

export interface CsiDriver {
  /** Resolves when it knows all volumes that there were at the start. */
  readonly synced: Promise<void>
  /** Ends all work in bounded time. */
  stop(): Promise<void>
}

/** Serves at once; Probe says when calls can succeed. @throws EndpointError, RpcError and what the file system throws */
export async function startCsi({ client, options, log }: CsiTerms): Promise<CsiDriver> {
  const { namespace, 'node-id': nodeId = '', 'host-dir': hostDir } = options
  const definitions = loadServices()
  const volumes = client && followVolumes(client, namespace, log)
  const served: Served[] = []
  let watching: ReturnType<typeof watchVolumes> | undefined
  try {
    if (client && volumes) {
      served.push(serves<ControllerMethods>(definitions.controller, controller(client, volumes, namespace)))
    }
    if (options.services.includes('node')) {
      const launch = hostDir === undefined ? undefined : await installOutside(hostDir)
      served.push(serves<NodeMethods>(definitions.node, node({ nodeId, launch })))
      watching = watchVolumes(log)
    }
    const self = identity(() => volumes?.isSynced ?? true)
    const server = await listen(
      options.endpoint,
      [serves<IdentityMethods>(definitions.identity, self), ...served],
      log,
    )
    return {
      synced: volumes?.synced ?? Promise.resolve(),
      async stop() {
        await server.stop()
        await watching?.stop()
        await volumes?.stop()
      },
    }
  } catch (error) {
    await watching?.stop()
    await volumes?.stop()
    throw error
  }
}
