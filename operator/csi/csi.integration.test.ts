/** The driver at its socket, as far as it needs neither a cluster nor a node. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { credentials, makeClientConstructor } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { startCsi } from './csi.ts'
import { loadServices } from './protocol/definition.ts'

// A driver of nodes said that there was no controller: csi-sanity then staged what had never been published.
test('a driver that serves nodes only has the capabilities of the whole', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ondemand-disk-csi-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const endpoint = join(directory, 'csi.sock')
  const log = { error() {}, warn() {}, info() {}, debug() {} }
  const options = { endpoint, namespace: undefined, 'node-id': 'n1', services: ['node'] } as const
  const driver = await startCsi({ client: undefined, options, log })
  onTestFinished(() => driver.stop())
  const Identity = makeClientConstructor(loadServices().identity, 'Identity')
  const client = new Identity(`unix:${endpoint}`, credentials.createInsecure())
  onTestFinished(() => client.close())
  const answer = await new Promise<{ capabilities: object[] }>((resolve, reject) => {
    client.GetPluginCapabilities?.({}, (error: Error | null, value: { capabilities: object[] }) =>
      error ? reject(error) : resolve(value),
    )
  })
  expect(answer.capabilities).toMatchObject([
    { service: { type: 'CONTROLLER_SERVICE' } },
    { volumeExpansion: { type: 'ONLINE' } },
  ])
})
