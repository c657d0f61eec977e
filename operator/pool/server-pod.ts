/** The pool's server: one Pod, never two, with the server that has no token and the agent that has one. */
import type { DiskPool } from '../../crds/diskpool.ts'
import type { KubeObject, OwnerReference } from '../kube/objects.ts'
import { DISKS_PATH, labelsOf, poolNames, RETAINED_PATH, SPARES_PATH, VOLUME_PATH } from '../terms/names.ts'
import { commonContainer, commonPodSpec, POOL_MOUNT, poolVolume } from './pods.ts'
import type { PodSettings } from './settings.ts'

export const NBD_PORT = 10809
export const NBD_METRICS_PORT = 10810
export const AGENT_METRICS_PORT = 10811

const MANIFESTS = '/manifests'
const CONTROL = '/control'
const TLS = '/tls'
const TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount'

const SOCKETS = [
  '--control',
  `${CONTROL}/nbd.sock`,
  '--ask',
  `${CONTROL}/agent.sock`,
  '--policy',
  `${CONTROL}/policy.json`,
]

/** Labels by which Services, NetworkPolicies and affinities find the server's Pod. */
export function serverSelector(pool: string) {
  const labels = labelsOf(pool, 'server')
  const keys = ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/component']
  return Object.fromEntries(keys.map(key => [key, labels[key] ?? '']))
}

/** A StatefulSet of one: the only controller that waits for a Pod to be gone for sure before it makes the next. */
export function serverSet(
  pool: DiskPool,
  owner: OwnerReference,
  claim: string,
  settings: PodSettings,
): KubeObject {
  const { metadata, spec } = pool
  const names = poolNames(metadata.name)
  const labels = labelsOf(metadata.name, 'server')
  const { podLabels, podAnnotations, priorityClassName, affinity } = spec.server
  return {
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: { ...meta(pool, names.server), labels, ownerReferences: [owner] },
    spec: {
      replicas: 1,
      serviceName: names.service,
      selector: { matchLabels: serverSelector(metadata.name) },
      // Else a Pod that never gets ready would keep a correction of it out.
      podManagementPolicy: 'Parallel',
      template: {
        metadata: {
          labels: { ...podLabels, ...labels },
          ...(podAnnotations && { annotations: podAnnotations }),
        },
        spec: {
          ...commonPodSpec(pool, settings),
          serviceAccountName: names.agent,
          terminationGracePeriodSeconds: 30,
          ...(priorityClassName !== undefined && { priorityClassName }),
          ...(affinity && { affinity }),
          initContainers: [directories(settings)],
          containers: [nbd(pool, settings), agent(pool, settings)],
          volumes: [
            poolVolume(claim),
            { name: 'manifests', emptyDir: {} },
            { name: 'control', emptyDir: {} },
            { name: 'token', projected: { sources: tokenSources(), defaultMode: 0o440 } },
            ...(spec.tls.mode === 'Off'
              ? []
              : [{ name: 'tls', projected: { sources: tlsSources(pool), defaultMode: 0o440 } }]),
          ],
        },
      },
    },
  } as KubeObject
}

function meta({ metadata: { namespace } }: DiskPool, name: string) {
  return { name, ...(namespace !== undefined && { namespace }) }
}

/** The server does not start without them. */
function directories(settings: PodSettings) {
  return {
    name: 'directories',
    ...commonContainer(settings),
    command: ['mkdir', '-p', DISKS_PATH, SPARES_PATH, RETAINED_PATH],
    volumeMounts: [POOL_MOUNT],
    resources: { requests: { cpu: '10m', memory: '16Mi' }, limits: { memory: '64Mi' } },
  }
}

/** Why a server does not start stands in its last line; the pool's condition has it from here. */
const LAST_WORDS = { terminationMessagePolicy: 'FallbackToLogsOnError' } as const

/** Rules and limits of clients are not among the arguments: their changes must not restart the Pod. */
function nbd({ spec }: DiskPool, settings: PodSettings) {
  const { tls, exportNames, server } = spec
  const resources = Object.keys(server.resources).length > 0 ? server.resources : undefined
  return {
    name: 'nbd',
    ...commonContainer(settings),
    ...LAST_WORDS,
    command: ['ondemand-disk', 'serve'],
    args: [
      ...['--dir', DISKS_PATH, '--disks', MANIFESTS, '--no-create'],
      ...['--names', exportNames === 'Strict' ? 'strict' : 'relaxed'],
      ...['--listen', `*:${NBD_PORT}`, '--metrics', `*:${NBD_METRICS_PORT}`],
      ...SOCKETS,
      ...(tls.mode === 'Off' ? [] : ['--tls', tls.mode === 'On' ? 'on' : 'require', '--tls-dir', TLS]),
    ],
    ports: [
      { name: 'nbd', containerPort: NBD_PORT, protocol: 'TCP' },
      { name: 'metrics', containerPort: NBD_METRICS_PORT, protocol: 'TCP' },
    ],
    ...probes('metrics'),
    volumeMounts: [
      POOL_MOUNT,
      { name: 'manifests', mountPath: MANIFESTS, readOnly: true },
      { name: 'control', mountPath: CONTROL },
      ...(tls.mode === 'Off' ? [] : [{ name: 'tls', mountPath: TLS, readOnly: true }]),
    ],
    resources: resources ?? { requests: { cpu: '100m', memory: '128Mi' } },
  }
}

function agent({ metadata }: DiskPool, settings: PodSettings) {
  return {
    name: 'agent',
    ...commonContainer(settings),
    ...LAST_WORDS,
    command: ['ondemand-disk-operator', 'agent'],
    args: [
      ...['--pool', metadata.name, '--namespace', metadata.namespace ?? 'default'],
      ...['--dir', VOLUME_PATH, '--manifests', MANIFESTS, ...SOCKETS],
      ...['--metrics', `*:${AGENT_METRICS_PORT}`],
    ],
    env: [{ name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
    ports: [{ name: 'agent-metrics', containerPort: AGENT_METRICS_PORT, protocol: 'TCP' }],
    ...probes('agent-metrics'),
    volumeMounts: [
      POOL_MOUNT,
      { name: 'manifests', mountPath: MANIFESTS },
      { name: 'control', mountPath: CONTROL },
      { name: 'token', mountPath: TOKEN, readOnly: true },
    ],
    resources: { requests: { cpu: '20m', memory: '96Mi' }, limits: { memory: '512Mi' } },
  }
}

function probes(port: string) {
  return {
    readinessProbe: {
      httpGet: { path: '/readyz', port },
      periodSeconds: 2,
      timeoutSeconds: 5,
      failureThreshold: 5,
    },
    livenessProbe: {
      httpGet: { path: '/healthz', port },
      periodSeconds: 10,
      timeoutSeconds: 10,
      failureThreshold: 6,
      initialDelaySeconds: 20,
    },
  }
}

/** What the kubelet would mount into every container; here only the agent gets it. */
function tokenSources() {
  return [
    { serviceAccountToken: { path: 'token', expirationSeconds: 3607 } },
    { configMap: { name: 'kube-root-ca.crt', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
    { downwardAPI: { items: [{ path: 'namespace', fieldRef: { fieldPath: 'metadata.namespace' } }] } },
  ]
}

/** One source for each key, so that those that the Secret does not have are left out. */
function tlsSources({ spec: { tls } }: DiskPool) {
  return ['tls.crt', 'tls.key', 'ca.crt', 'keys.psk'].map(key => ({
    secret: { name: tls.secretName, items: [{ key, path: key }], optional: true },
  }))
}
