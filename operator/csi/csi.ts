/** The CSI driver: its services on one socket. */
import type { KubeClient } from '../kube/client.ts'
import type { KubeLog } from '../kube/log.ts'
import { controller } from './controller/controller.ts'
import { followVolumes } from './controller/volumes.ts'
import { identity } from './identity.ts'
import { loadServices } from './protocol/definition.ts'
import type { ControllerMethods, IdentityMethods } from './protocol/messages.ts'
import { listen, serves } from './rpc/listen.ts'

/** What the driver works with. */
export interface CsiTerms {
  readonly client: KubeClient
  readonly options: {
    /** Path of the unix socket. */
    readonly endpoint: string
    /** The only namespace to work in; undefined: all. */
    readonly namespace: string | undefined
  }
  readonly log: KubeLog
}

export interface CsiDriver {
  /** Resolves when it knows all volumes that there were at the start. */
  readonly synced: Promise<void>
  /** Ends all work in bounded time. */
  stop(): Promise<void>
}

/** Serves at once; Probe says when calls can succeed. @throws EndpointError */
export async function startCsi({ client, options, log }: CsiTerms): Promise<CsiDriver> {
  const services = loadServices()
  const volumes = followVolumes(client, options.namespace, log)
  try {
    const server = await listen(
      options.endpoint,
      [
        serves<IdentityMethods>(
          services.identity,
          identity(true, () => volumes.isSynced),
        ),
        serves<ControllerMethods>(services.controller, controller(client, volumes, options.namespace)),
      ],
      log,
    )
    return {
      synced: volumes.synced,
      async stop() {
        await server.stop()
        await volumes.stop()
      },
    }
  } catch (error) {
    await volumes.stop()
    throw error
  }
}
