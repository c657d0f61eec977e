import { expect, test, vi } from 'vitest'
import { API_GROUP_VERSION, ONDEMANDDISK_KIND } from '../../crds/ondemanddisk.ts'
import { createClient } from '../kube/client.ts'
import { TestApi } from '../kube/test-api.ts'
import { createFarewell } from './farewell.ts'

const log = { debug() {}, info() {}, warn() {}, error() {} }

function setUp() {
  const api = new TestApi()
  const { metadata } = api.put({
    ...{ apiVersion: API_GROUP_VERSION, kind: ONDEMANDDISK_KIND },
    ...{ metadata: { name: 'alice', namespace: 'ns' }, spec: { poolName: 'lab' } },
  })
  const { name, namespace, uid = '' } = metadata
  const texts = new Map([[uid, JSON.stringify({ metadata: { name, namespace, uid } })]])
  const gone: string[] = []
  const farewell = createFarewell({
    ...{ client: createClient({ transport: api.transport }), poolName: 'lab', log },
    manifests: { text: asked => texts.get(asked), remove: async asked => void texts.delete(asked) },
    isFollowed: () => false,
    onGone: asked => gone.push(asked),
  })
  return { api, farewell, gone, uid }
}

const asked = (api: TestApi) => api.requests.filter(request => request.startsWith('GET')).length

test('A disk that is gone is not served any more', async () => {
  const { api, farewell, gone, uid } = setUp()
  api.remove('alice', 'ns')
  farewell.leave(uid)
  await vi.waitFor(() => expect(gone).toEqual([uid]))
  await farewell.stop()
})

test('One that was made again under the name is another one', async () => {
  const { api, farewell, gone, uid } = setUp()
  api.remove('alice', 'ns')
  api.put({ metadata: { name: 'alice', namespace: 'ns' } })
  farewell.leave(uid)
  await vi.waitFor(() => expect(gone).toEqual([uid]))
  await farewell.stop()
})

// kubectl replace took the label away, and with it all clients while the operator did not answer at once.
test('One that has only lost its label is served on', async () => {
  const { api, farewell, gone, uid } = setUp()
  farewell.leave(uid)
  await vi.waitFor(() => expect(asked(api)).toBe(1))
  await farewell.stop()
  expect(gone).toEqual([])
})

test('One of which the API server does not tell is served on', async () => {
  const { api, farewell, gone, uid } = setUp()
  api.faults = [{ kind: 'status', status: 403 }]
  farewell.leave(uid)
  await vi.waitFor(() => expect(asked(api)).toBe(1))
  await farewell.stop()
  expect(gone).toEqual([])
})
