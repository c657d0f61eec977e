/** The Identity service: who the driver is, and whether it is ready. */
import packageJson from '../../package.json' with { type: 'json' }
import type { IdentityMethods, PluginCapability } from './protocol/messages.ts'
import type { Handlers } from './rpc/call.ts'

export const DRIVER_NAME = 'csi.ondemanddisk.dev'

/** @param isReady Can calls succeed yet? */
export function identity(hasController: boolean, isReady: () => boolean): Handlers<IdentityMethods> {
  const capabilities: PluginCapability[] = hasController
    ? [{ service: { type: 'CONTROLLER_SERVICE' } }, { volumeExpansion: { type: 'ONLINE' } }]
    : []
  return {
    GetPluginInfo: async () => ({ name: DRIVER_NAME, vendorVersion: packageJson.version }),
    GetPluginCapabilities: async () => ({ capabilities }),
    Probe: async () => ({ ready: { value: isReady() } }),
  }
}
