import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { eventually } from '../until.ts'
import { awaitRoutes, needClientImage, RESTRICTED, startClients } from './client.ts'
import { uriOf } from './disks.ts'
import { type Cluster, newNamespace, onCluster, useCluster } from './harness.ts'

let cluster: Cluster
let namespace: Awaited<ReturnType<typeof newNamespace>>

beforeAll(async () => {
  cluster = await useCluster()
  if (cluster.unavailable === undefined) namespace = await newNamespace(cluster, 'e2e-node')
})
afterAll(async () => {
  await namespace?.[Symbol.asyncDispose]()
  await cluster[Symbol.asyncDispose]()
})
beforeEach(context => onCluster(context, cluster, namespace?.name))

/** The server of the image as any pod may run it, without an operator; it refuses the client B. */
const server = (image: string, refused: string) => [
  {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'server', labels: { app: 'server' } },
    spec: {
      automountServiceAccountToken: false,
      securityContext: { fsGroup: 10809 },
      containers: [
        {
          name: 'nbd',
          image,
          imagePullPolicy: 'IfNotPresent',
          command: ['ondemand-disk'],
          args: ['serve', '--dir', '/disks', '--size', '64M', '--listen', '0.0.0.0:10809', '--deny', refused],
          ports: [{ name: 'nbd', containerPort: 10809 }],
          securityContext: { ...RESTRICTED, runAsUser: 10809, readOnlyRootFilesystem: true },
          readinessProbe: { tcpSocket: { port: 'nbd' }, periodSeconds: 1 },
          volumeMounts: [
            { name: 'disks', mountPath: '/disks' },
            { name: 'tmp', mountPath: '/tmp' },
          ],
        },
      ],
      volumes: [
        { name: 'disks', emptyDir: {} },
        { name: 'tmp', emptyDir: {} },
      ],
    },
  },
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'disks' },
    spec: { selector: { app: 'server' }, ports: [{ name: 'nbd', port: 10809, protocol: 'TCP' }] },
  },
]

describe('The server in a pod, without an operator', () => {
  test('is found by its Service name, and sees the address of the pod that connects', async context => {
    needClientImage(context, cluster)
    const [a, b] = await startClients(cluster, namespace.name, 'a', 'b')
    if (a === undefined || b === undefined) throw new Error('No clients')
    const objects = server(cluster.image, b.ip).map(object => ({
      ...object,
      metadata: { ...object.metadata, namespace: namespace.name },
    }))
    await cluster.apply(...objects)
    await eventually('the Service has an endpoint', 60_000, async () => {
      const endpoints = await cluster.get(`/api/v1/namespaces/${namespace.name}/endpoints/disks`)
      return endpoints?.subsets?.[0]?.addresses?.length === 1
    })
    const uri = uriOf(namespace.name, 'disks', 'alice')
    await awaitRoutes(a, namespace.name, 'disks')
    expect(await a.exec('nbdinfo', '--size', uri)).toBe(`${64 * 1024 ** 2}\n`)
    await expect(b.exec('nbdinfo', '--size', uri)).rejects.toThrow('nbdinfo')
    const log = await cluster.kubectl(['logs', '-n', namespace.name, 'server'])
    expect(log).toContain(`Client ${b.ip} is refused by deny rule`)
  })
})
