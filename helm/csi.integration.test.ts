import { beforeEach, describe, expect, test } from 'vitest'
import { chart, find, helm, helmRuns, type KubeObject, render, settings } from './render.ts'

beforeEach(async context => {
  context.skip(!(await helmRuns), 'helm is not installed: hack/test installs it, on x86-64')
})

const CLASS = ['csi.storageClasses[0].name=disks', 'csi.storageClasses[0].pool=lab']
const ON = ['csi.enabled=true', ...CLASS]
const PARTS = ['provisioner', 'attacher', 'resizer', 'snapshotter', 'livenessProbe', 'registrar']
const ALL = [
  ...ON,
  ...PARTS.map(part => `csi.sidecars.${part}.image=registry.example/${part.toLowerCase()}:v1`),
  ...['csi.snapshotClasses[0].name=copies', 'csi.storageClasses[0].default=true'],
  ...['csi.storageClasses[0].filesystem=xfs', 'csi.storageClasses[0].parameters.readBytesPerSecond=100Mi'],
]

const CONTROLLER = 'odd-ondemand-disk-csi-controller'
const NODE = 'odd-ondemand-disk-csi-node'
const containersOf = (objects: readonly KubeObject[], kind: string, name: string): KubeObject[] =>
  find(objects, kind, name).spec.template.spec.containers

describe('The CSI driver', () => {
  test('is not there unless it is switched on', async () => {
    const objects = await render()
    expect(objects.filter(({ metadata }) => metadata.name.includes('csi'))).toEqual([])
  })

  test.for([ON, ALL])('passes the linter', async values => {
    expect(await helm('lint', '--strict', chart, ...settings(values))).toContain('0 chart(s) failed')
  })

  test('is registered so that a node has a volume by leave of the controller only', async () => {
    expect(find(await render(ON), 'CSIDriver', 'csi.ondemanddisk.dev').spec).toEqual({
      attachRequired: true,
      podInfoOnMount: false,
      volumeLifecycleModes: ['Persistent'],
      fsGroupPolicy: 'ReadWriteOnceWithFSType',
    })
  })

  test('has the classes that the values name', async () => {
    const [plain, full] = [await render(ON), await render(ALL)]
    expect(find(plain, 'StorageClass', 'disks')).toMatchObject({
      provisioner: 'csi.ondemanddisk.dev',
      reclaimPolicy: 'Delete',
      allowVolumeExpansion: true,
      parameters: { pool: 'lab', poolNamespace: 'storage-system', 'csi.storage.k8s.io/fstype': 'ext4' },
    })
    expect(find(full, 'StorageClass', 'disks')).toMatchObject({
      metadata: { annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' } },
      parameters: { 'csi.storage.k8s.io/fstype': 'xfs', readBytesPerSecond: '100Mi' },
    })
    expect(plain.some(({ kind }) => kind === 'VolumeSnapshotClass')).toBe(false)
    expect(find(full, 'VolumeSnapshotClass', 'copies')).toMatchObject({
      driver: 'csi.ondemanddisk.dev',
      deletionPolicy: 'Delete',
    })
  })

  test('runs its controller without privileges, beside the sidecars whose images are given', async () => {
    const names = async (values: readonly string[]) =>
      containersOf(await render(values), 'Deployment', CONTROLLER).map(({ name }) => name)
    expect(await names(ON)).toEqual(['csi'])
    expect(await names(ALL)).toEqual([
      ...['csi', 'provisioner', 'attacher', 'resizer', 'snapshotter', 'livenessprobe'],
    ])
    for (const container of containersOf(await render(ALL), 'Deployment', CONTROLLER)) {
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
      expect(container.resources.limits.memory).toBeDefined()
      expect(container.volumeMounts).toEqual([{ name: 'socket', mountPath: '/csi' }])
    }
  })

  test('runs on every node, where what serves the disks can leave the pod', async () => {
    const { spec } = find(await render(ALL), 'DaemonSet', NODE).spec.template
    expect(spec).toMatchObject({
      hostPID: true,
      hostNetwork: true,
      dnsPolicy: 'ClusterFirstWithHostNet',
      automountServiceAccountToken: false,
      priorityClassName: 'system-node-critical',
      tolerations: [{ operator: 'Exists' }],
    })
    const [csi, registrar] = spec.containers
    expect(csi.securityContext.privileged).toBe(true)
    expect(registrar.securityContext).not.toHaveProperty('privileged')
    expect(csi.args).toEqual(
      expect.arrayContaining([
        '--services=node',
        '--node-id=$(NODE_NAME)',
        '--host-dir=/var/lib/ondemand-disk',
      ]),
    )
    expect(csi.volumeMounts).toContainEqual({
      name: 'kubelet',
      mountPath: '/var/lib/kubelet',
      mountPropagation: 'Bidirectional',
    })
    // What outlives the pod is found at the same path inside and outside.
    const mounts = new Map(csi.volumeMounts.map(({ name, mountPath }: KubeObject) => [name, mountPath]))
    for (const { name, hostPath } of spec.volumes)
      if (['kubelet', 'dev', 'program'].includes(name)) expect(mounts.get(name)).toBe(hostPath.path)
  })

  test('follows the folder of the kubelet', async () => {
    const spec = find(await render([...ALL, 'csi.kubeletDir=/data/kubelet']), 'DaemonSet', NODE).spec.template
      .spec
    expect(JSON.stringify(spec)).not.toContain('/var/lib/kubelet')
    expect(spec.containers[1].args).toContain(
      '--kubelet-registration-path=/data/kubelet/plugins/csi.ondemanddisk.dev/csi.sock',
    )
  })

  test('puts a proxy before its socket for old kubelets', async () => {
    const objects = await render([...ALL, 'csi.node.grpcProxy.image=registry.example/csi-grpc-proxy:v1'])
    const [csi, proxy] = containersOf(objects, 'DaemonSet', NODE)
    expect(csi.args).toContain('--endpoint=unix:///csi/driver.sock')
    expect(proxy.env).toEqual([
      { name: 'BIND_TO', value: 'unix:///csi/csi.sock' },
      { name: 'PROXY_TO', value: 'unix:///csi/driver.sock' },
    ])
    // It had none, and with it all that a container's root may do.
    expect(proxy.securityContext).toEqual({
      runAsUser: 0,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    })
  })

  test('gives the node no rights, and the controller those of the parts that are there', async () => {
    const rightsOf = async (values: readonly string[]) => {
      const objects = await render(values)
      const bound = objects.filter(
        ({ kind, subjects = [] }) =>
          kind.endsWith('Binding') && subjects.some(({ name }: KubeObject) => /-csi-/.test(name)),
      )
      expect(bound.flatMap(({ subjects }) => subjects.map(({ name }: KubeObject) => name))).not.toContain(
        NODE,
      )
      const rules: KubeObject[] = bound.flatMap(
        ({ roleRef }) => find(objects, roleRef.kind, roleRef.name).rules,
      )
      for (const { apiGroups, resources, verbs } of rules) {
        expect([...apiGroups, ...resources, ...verbs]).not.toContain('*')
        expect(resources).not.toContain('secrets')
      }
      return rules.flatMap(({ resources }) => resources)
    }
    const few = await rightsOf(ON)
    expect(few.sort()).toEqual(['diskpools', 'disksnapshots', 'leases', 'nodes', 'ondemanddisks'])
    expect(await rightsOf(ALL)).toEqual(
      expect.arrayContaining(['persistentvolumes', 'volumeattachments/status', 'volumesnapshotcontents']),
    )
  })

  test('lets nobody but scrapers connect to its controller', async () => {
    const from = 'networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus'
    const objects = await render([...ON, from])
    const { spec } = find(objects, 'NetworkPolicy', CONTROLLER)
    expect(spec.ingress).toEqual([
      {
        ports: [{ port: 'metrics', protocol: 'TCP' }],
        from: [{ podSelector: { matchLabels: { app: 'prometheus' } } }],
      },
    ])
    const { labels } = find(objects, 'Deployment', CONTROLLER).spec.template.metadata
    expect(labels).toMatchObject(spec.podSelector.matchLabels)
    const off = await render([...ON, 'networkPolicy.enabled=false'])
    expect(off.some(({ kind }) => kind === 'NetworkPolicy')).toBe(false)
  })

  test('works in one namespace when the release does', async () => {
    const objects = await render([...ON, 'watchNamespace=disks'])
    expect(find(objects, 'Role', `${CONTROLLER}-disks`).metadata.namespace).toBe('disks')
    const [csi] = containersOf(objects, 'Deployment', CONTROLLER)
    expect(csi.args).toContain('--namespace=disks')
    // The class named the pool of the release's namespace, where the driver refuses to work.
    expect(find(objects, 'StorageClass', 'disks').parameters.poolNamespace).toBe('disks')
  })

  test.for([
    ['csi.storageClasses[0].name=x', 'pool'],
    ['csi.storageClasses[0].filesystem=ntfs', 'filesystem'],
    ['csi.kubeletDir=var/lib', 'kubeletDir'],
    ['csi.sidecars.provisoner.image=x', 'provisoner'],
    ['csi.node.metricsPort=80', 'metricsPort'],
  ] as const)('values that are wrong are refused, and named: %s', async ([value, named]) => {
    await expect(render([value])).rejects.toThrow(named)
  })
})
