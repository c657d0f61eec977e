/** The driver at its socket, as far as it needs neither a cluster nor a node. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { credentials, makeClientConstructor, type ServiceError, status } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { startCsi } from './csi.ts'
import { loadServices } from './protocol/definition.ts'

async function startNode() {
  const directory = mkdtempSync(join(tmpdir(), 'ondemand-disk-csi-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const endpoint = join(directory, 'csi.sock')
  const log = { error() {}, warn() {}, info() {}, debug() {} }
  const options = { endpoint, namespace: undefined, 'node-id': 'n1', services: ['node'] } as const
  const driver = await startCsi({ client: undefined, options, log })
  onTestFinished(() => driver.stop())
  return endpoint
}

type Callback = (error: ServiceError | null, value: object) => void

/** A call of the driver as any client makes it. */
function call(endpoint: string, service: 'identity' | 'node', method: string, request: object) {
  const Service = makeClientConstructor(loadServices()[service], service)
  const client = new Service(`unix:${endpoint}`, credentials.createInsecure())
  onTestFinished(() => client.close())
  const methods = client as unknown as Readonly<Record<string, (request: object, callback: Callback) => void>>
  return new Promise<object>((resolve, reject) => {
    methods[method]?.(request, (error, value) => (error ? reject(error) : resolve(value)))
  })
}

// A driver of nodes said that there was no controller: csi-sanity then staged what had never been published.
test('a driver that serves nodes only has the capabilities of the whole', async () => {
  expect(await call(await startNode(), 'identity', 'GetPluginCapabilities', {})).toMatchObject({
    capabilities: [{ service: { type: 'CONTROLLER_SERVICE' } }, { volumeExpansion: { type: 'ONLINE' } }],
  })
})

// csi-sanity asks for `some/path`, which was INVALID_ARGUMENT, since it does not begin with a slash.
test.each(['NodeGetVolumeStats', 'NodeExpandVolume'])(
  '%s: no volume is at a relative path, which is no reason to call the argument invalid',
  async method => {
    const request = { volumeId: 'fake-vol-id-0123456789', volumePath: 'some/path' }
    await expect(call(await startNode(), 'node', method, request)).rejects.toMatchObject({
      code: status.NOT_FOUND,
    })
  },
)
