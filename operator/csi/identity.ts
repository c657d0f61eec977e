/** The Identity service: who the driver is, and whether it is ready. */
import packageJson from '../../package.json' with { type: 'json' }
import type { IdentityMethods, PluginCapability } from './protocol/messages.ts'
import type { Handlers } from './rpc/call.ts'

const DRIVER_NAME = 'csi.ondemanddisk.dev'

/** Of the driver as it is deployed as a whole: the specification wants the same answer of every instance, whatever it serves. */
const CAPABILITIES: readonly PluginCapability[] = [
  { service: { type: 'CONTROLLER_SERVICE' } },
  { volumeExpansion: { type: 'ONLINE' } },
]

/** @param isReady Can calls succeed yet? */
export function identity(isReady: () => boolean): Handlers<IdentityMethods> {
  return {
    GetPluginInfo: async () => ({ name: DRIVER_NAME, vendorVersion: packageJson.version }),
    GetPluginCapabilities: async () => ({ capabilities: CAPABILITIES }),
    Probe: async () => ({ ready: { value: isReady() } }),
  }
}
