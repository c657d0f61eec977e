/** Good and bad DiskPools: one table for everything that judges them, as that of OnDemandDisks. */
import type { BadCase, GoodCase, RefusedBy, TransitionCase } from './ondemanddisk.cases.ts'

const storage = { claimName: 'disks' }
const claimTemplate = { size: '100Gi' }
const template = { size: '1Gi' }
const onDemand = { enabled: true, template }

export const goodPools: readonly GoodCase[] = [
  { title: 'a claim by name', spec: { storage } },
  { title: 'a claim of its own', spec: { storage: { claimTemplate } } },
  {
    title: 'every field',
    spec: {
      storage: {
        claimTemplate: {
          storageClassName: 'fast.ssd',
          accessModes: ['ReadWriteOnce', 'ReadWriteMany'],
          size: 107374182400,
          volumeName: 'pv-1',
          annotations: { 'example.org/backup': 'no' },
        },
      },
      server: {
        serviceType: 'LoadBalancer',
        externalTrafficPolicy: 'Local',
        nodePort: 30809,
        serviceAnnotations: { 'example.org/lb': 'internal' },
        resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { cpu: 2 } },
        nodeSelector: { 'example.org/disk': 'fast' },
        tolerations: [
          { key: 'storage', operator: 'Exists', effect: 'NoExecute', tolerationSeconds: 60 },
          { operator: 'Exists' },
        ],
        affinity: {
          nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } },
        },
        priorityClassName: 'system-cluster-critical',
        podLabels: { team: 'thin-clients' },
        podAnnotations: { 'example.org/x': '' },
      },
      tls: { mode: 'Require', secretName: 'nbd-tls' },
      access: {
        allow: ['10.0.0.0/8', 'dn:CN=*'],
        deny: ['any'],
        maxConnections: 1000,
        maxConnectionsPerClient: 8,
        limits: { readBytesPerSecond: '1Gi', writeBytesPerSecond: 1, iops: 100 },
      },
      exportNames: 'Relaxed',
      onDemand: {
        enabled: true,
        template: { size: '10Gi', filesystem: { type: 'xfs', label: 'home' }, reclaimPolicy: 'Retain' },
        maxSize: '20Gi',
        maxDisks: 500,
        spares: 5,
      },
      quota: '10Ti',
    },
  },
  {
    title: 'no storage class at all',
    spec: { storage: { claimTemplate: { ...claimTemplate, storageClassName: '' } } },
  },
  {
    title: 'empty objects in place of absent ones',
    spec: { storage, server: {}, tls: {}, access: {}, onDemand: {} },
  },
  { title: 'a template that is not in use', spec: { storage, onDemand: { template, spares: 3 } } },
  {
    title: 'a temporary template',
    spec: { storage, onDemand: { enabled: true, template: { size: 0, command: 'true', mode: 'Temporary' } } },
  },
  {
    title: 'an upstream for whatever is asked for',
    spec: { storage, onDemand: { enabled: true, template: { upstream: { uri: 'nbd://a' } } } },
  },
  {
    title: 'a size to choose that is that of the template',
    spec: { storage, onDemand: { ...onDemand, maxSize: '1024Mi' } },
  },
  { title: 'a name of 63 characters', spec: { storage }, name: `p${'-1'.repeat(31)}` },
]

type BadSpec = readonly [title: string, spec: object, field: string, name?: string]

const refusedByOpenApi: readonly BadSpec[] = [
  ['no storage', {}, 'storage'],
  ['an empty storage', { storage: {} }, 'storage'],
  ['two storages', { storage: { ...storage, claimTemplate } }, 'storage'],
  ['a claim name with a path', { storage: { claimName: '../x' } }, 'storage.claimName'],
  ['a claim name of 254', { storage: { claimName: 'a'.repeat(254) } }, 'storage.claimName'],
  ['a claim without a size', { storage: { claimTemplate: {} } }, 'storage.claimTemplate.size'],
  ['a claim of size 0', { storage: { claimTemplate: { size: 0 } } }, 'storage.claimTemplate.size'],
  [
    'a claim for one Pod',
    { storage: { claimTemplate: { ...claimTemplate, accessModes: ['ReadWriteOncePod'] } } },
    'storage.claimTemplate.accessModes[0]',
  ],
  [
    'a claim without access',
    { storage: { claimTemplate: { ...claimTemplate, accessModes: [] } } },
    'storage.claimTemplate.accessModes',
  ],
  ['an unknown service type', { storage, server: { serviceType: 'ExternalName' } }, 'server.serviceType'],
  ['a port in the cluster', { storage, server: { nodePort: 30000 } }, 'server.nodePort'],
  [
    'a policy in the cluster',
    { storage, server: { externalTrafficPolicy: 'Local' } },
    'server.externalTrafficPolicy',
  ],
  ['a port of 65536', { storage, server: { serviceType: 'NodePort', nodePort: 65536 } }, 'server.nodePort'],
  [
    'a resource that is no quantity',
    { storage, server: { resources: { limits: { cpu: 'much' } } } },
    'server.resources.limits.cpu',
  ],
  [
    '33 tolerations',
    { storage, server: { tolerations: Array(33).fill({ operator: 'Exists' }) } },
    'server.tolerations',
  ],
  [
    'an unknown taint effect',
    { storage, server: { tolerations: [{ effect: 'NoSleep' }] } },
    'server.tolerations[0].effect',
  ],
  ['an affinity that is a list', { storage, server: { affinity: [] } }, 'server.affinity'],
  ['a label that is a number', { storage, server: { podLabels: { a: 1 } } }, 'server.podLabels.a'],
  ['an unknown TLS mode', { storage, tls: { mode: 'on' } }, 'tls.mode'],
  ['TLS without a secret', { storage, tls: { mode: 'On' } }, 'tls.secretName'],
  ['TLS that YAML has taken for true', { storage, tls: { mode: true } }, 'tls.mode'],
  ['a host name as a rule', { storage, access: { allow: ['localhost'] } }, 'access.allow[0]'],
  ['no connections at all', { storage, access: { maxConnections: 0 } }, 'access.maxConnections'],
  ['a rate of 0', { storage, access: { limits: { iops: 0 } } }, 'access.limits.iops'],
  ['unknown rules for names', { storage, exportNames: 'relaxed' }, 'exportNames'],
  ['disks on demand of no kind', { storage, onDemand: { enabled: true } }, 'onDemand.template'],
  ['a template without a size', { storage, onDemand: { template: {} } }, 'onDemand.template.size'],
  [
    'a template with two sources',
    { storage, onDemand: { template: { size: 1, command: 'true', filesystem: {} } } },
    'onDemand.template.filesystem',
  ],
  [
    'a template with a path',
    { storage, onDemand: { template: { size: 1, filesystem: { mkfsOptions: ['/etc'] } } } },
    'onDemand.template.filesystem.mkfsOptions[0]',
  ],
  ['101 spares', { storage, onDemand: { ...onDemand, spares: 101 } }, 'onDemand.spares'],
  ['no disks at all', { storage, onDemand: { ...onDemand, maxDisks: 0 } }, 'onDemand.maxDisks'],
  ['a quota that is no quantity', { storage, quota: 'all' }, 'quota'],
]

const refusedByCel: readonly BadSpec[] = [
  ['a subject without TLS', { storage, access: { allow: ['any', 'dn:CN=x'] } }, 'access.allow[1]'],
  ['a forbidden subject without TLS', { storage, access: { deny: ['dn:CN=x'] } }, 'access.deny[0]'],
  [
    'spares of what is temporary',
    { storage, onDemand: { enabled: true, template: { ...template, mode: 'Temporary' }, spares: 1 } },
    'onDemand.spares',
  ],
  [
    'spares of an upstream',
    { storage, onDemand: { enabled: true, template: { upstream: { uri: 'nbd://a' } }, spares: 1 } },
    'onDemand.spares',
  ],
  [
    'a template of upstream and Temporary',
    { storage, onDemand: { template: { upstream: { uri: 'nbd://a' }, mode: 'Temporary' } } },
    'onDemand.template.mode',
  ],
  [
    'a variable named disk',
    { storage, onDemand: { template: { size: 1, command: 'true', variables: { disk: '' } } } },
    'onDemand.template.variables["disk"]',
  ],
]

const refusedByProgram: readonly BadSpec[] = [
  ['an unknown field', { storage, tsl: {} }, 'tsl'],
  [
    'a template that names a pool',
    { storage, onDemand: { template: { ...template, poolName: 'x' } } },
    'onDemand.template.poolName',
  ],
  ['a prefix of 33', { storage, access: { deny: ['10.0.0.1/33'] } }, 'access.deny[0]'],
  [
    'a claim of 0 as a quantity',
    { storage: { claimTemplate: { size: '0Gi' } } },
    'storage.claimTemplate.size',
  ],
  [
    'a template with a long label',
    { storage, onDemand: { template: { size: 1, filesystem: { label: 'x'.repeat(17) } } } },
    'onDemand.template.filesystem.label',
  ],
  [
    'a size to choose below that of the template',
    { storage, onDemand: { ...onDemand, maxSize: '1023Mi' } },
    'onDemand.maxSize',
  ],
  [
    'a rate of 0 as a quantity',
    { storage, access: { limits: { readBytesPerSecond: '0' } } },
    'access.limits.readBytesPerSecond',
  ],
]

const named = (title: string, name: string): BadCase => ({
  title,
  spec: { storage },
  name,
  field: 'metadata.name',
  by: 'cel',
})

function refusedBy(by: RefusedBy, specs: readonly BadSpec[]): BadCase[] {
  return specs.map(([title, spec, field]) => ({ title, spec, field: `spec.${field}`, by }))
}

export const badPools: readonly BadCase[] = [
  ...refusedBy('openapi', refusedByOpenApi),
  ...refusedBy('cel', refusedByCel),
  named('a name with a dot', 'a.b'),
  named('a name that begins with a digit', '1a'),
  named('a name of 64 characters', 'a'.repeat(64)),
  ...refusedBy('program', refusedByProgram),
]

const claim = (fields: object) => ({ storage: { claimTemplate: { ...claimTemplate, ...fields } } })

export const poolTransitions: readonly TransitionCase[] = [
  { title: 'no change', before: { storage }, after: { storage } },
  { title: 'a claim that grows', before: claim({}), after: claim({ size: '0.2Ti' }) },
  {
    title: 'a claim in other words',
    before: claim({}),
    after: claim({ size: 107374182400, accessModes: ['ReadWriteOnce'] }),
  },
  {
    title: 'a claim that shrinks',
    before: claim({}),
    after: claim({ size: '99Gi' }),
    field: 'spec.storage.claimTemplate.size',
    by: 'cel',
  },
  {
    title: 'another claim',
    before: { storage },
    after: { storage: { claimName: 'b' } },
    field: 'spec.storage.claimName',
    by: 'cel',
  },
  {
    title: 'from a claim by name to one of its own',
    before: { storage },
    after: claim({}),
    field: 'spec.storage.claimName',
    by: 'cel',
  },
  {
    title: 'from a claim of its own to one by name',
    before: claim({}),
    after: { storage },
    field: 'spec.storage.claimName',
    by: 'cel',
  },
  {
    title: 'another storage class',
    before: claim({}),
    after: claim({ storageClassName: 'b' }),
    field: 'spec.storage.claimTemplate.storageClassName',
    by: 'cel',
  },
  {
    title: 'other access',
    before: claim({}),
    after: claim({ accessModes: ['ReadWriteMany'] }),
    field: 'spec.storage.claimTemplate.accessModes',
    by: 'cel',
  },
  {
    title: 'another volume',
    before: claim({ volumeName: 'a' }),
    after: claim({ volumeName: 'b' }),
    field: 'spec.storage.claimTemplate.volumeName',
    by: 'cel',
  },
  {
    title: 'a smaller template',
    before: { storage, onDemand: { template: { size: '2Gi' } } },
    after: { storage, onDemand: { template } },
  },
  {
    title: 'all else',
    before: {
      storage,
      exportNames: 'Strict',
      quota: 10,
      server: { serviceType: 'NodePort', nodePort: 30000 },
      tls: { mode: 'On', secretName: 's' },
    },
    after: { storage, exportNames: 'Relaxed', quota: 5, access: { deny: ['any'] }, onDemand },
  },
]
