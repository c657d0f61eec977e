import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { parseAllDocuments, parse as parseYaml } from 'yaml'
import { parseDiskPool } from '../crds/diskpool.ts'
import { parseOnDemandDisk } from '../crds/ondemanddisk.ts'
import {
  chart,
  find,
  helm,
  helmRuns,
  type KubeObject,
  NAMESPACE,
  podsOf,
  render,
  settings,
} from './render.ts'

/** All that values can switch on. */
const EVERYTHING = [
  ...['operator.replicas=2', 'defaultPool.enabled=true', 'metrics.podMonitor.enabled=true'],
  ...['metrics.prometheusRule.enabled=true', 'metrics.dashboard.enabled=true', 'commonLabels.team=storage'],
  ...['imagePullSecrets[0].name=registry', 'operator.priorityClassName=system-cluster-critical'],
  ...['networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus', 'watchNamespace=disks'],
]

beforeEach(async context => {
  context.skip(!(await helmRuns), 'helm is not installed: hack/test installs it, on x86-64')
})

describe.each([
  ['the default values', []],
  ['everything switched on', EVERYTHING],
])('The chart with %s', (_, values) => {
  test('passes the linter', async () => {
    const said = await helm('lint', '--strict', chart, ...settings(values))
    expect(said).toContain('0 chart(s) failed')
  })

  test('gives each object its labels, its namespace and a name of its own', async () => {
    const objects = await render(values)
    const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`)
    expect(new Set(names).size).toBe(names.length)
    for (const { kind, metadata } of objects) {
      expect(metadata.labels).toMatchObject({
        'app.kubernetes.io/name': 'ondemand-disk',
        'app.kubernetes.io/instance': 'odd',
      })
      expect(metadata.name.length).toBeLessThanOrEqual(63)
      if (kind.startsWith('ClusterRole')) expect(metadata.namespace).toBeUndefined()
      else expect(metadata.namespace).toMatch(/^(?:storage-system|disks)$/)
    }
  })

  test('runs every pod as Pod Security "restricted" wants it, bounded and read-only', async () => {
    const pods = podsOf(await render(values))
    expect(pods).toHaveLength(3)
    for (const { securityContext, containers, hostNetwork, hostPID, hostIPC, volumes = [] } of pods) {
      expect([hostNetwork, hostPID, hostIPC]).toEqual([undefined, undefined, undefined])
      expect(securityContext).toMatchObject({
        runAsNonRoot: true,
        runAsUser: 10809,
        seccompProfile: { type: 'RuntimeDefault' },
      })
      for (const volume of volumes) expect(volume).not.toHaveProperty('hostPath')
      for (const container of containers) {
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect(container.resources.limits.memory).toBeDefined()
        expect(container.resources.requests).toMatchObject({
          cpu: expect.any(String),
          memory: expect.any(String),
        })
      }
    }
  })

  test('gives no right that is wider than its reason', async () => {
    const objects = await render(values)
    const roles = objects.filter(({ kind }) => /^(?:Cluster)?Role$/.test(kind))
    expect(roles.length).toBeGreaterThan(5)
    for (const { rules } of roles)
      for (const { apiGroups, resources, verbs, resourceNames } of rules) {
        expect([...apiGroups, ...resources, ...verbs].join()).not.toContain('*')
        expect(resources).not.toContain('secrets')
        expect(resources).not.toContain('pods/exec')
        expect(verbs).not.toContain('escalate')
        expect(verbs).not.toContain('impersonate')
        if (verbs.includes('bind')) expect(resourceNames).toEqual(['odd-ondemand-disk-agent'])
      }
  })
})

describe('The chart', () => {
  test('binds every role to the account that it is for', async () => {
    const objects = await render(EVERYTHING)
    for (const { kind, metadata, roleRef, subjects } of objects.filter(({ kind }) =>
      kind.endsWith('Binding'),
    )) {
      expect(`${roleRef.kind}Binding`).toBe(kind)
      expect(roleRef.name).toBe(metadata.name)
      find(objects, roleRef.kind, roleRef.name)
      for (const { name, namespace } of subjects) {
        expect(namespace).toBe(NAMESPACE)
        expect(find(objects, 'ServiceAccount', name).metadata.namespace).toBe(NAMESPACE)
      }
    }
  })

  test('says a reason beside each rule of its roles', () => {
    const rules: string[] = []
    for (const file of readdirSync(join(chart, 'templates')).filter(name =>
      /rbac|rules|hooks\.yaml/.test(name),
    )) {
      const lines = readFileSync(join(chart, 'templates', file), 'utf8').split('\n')
      for (const [index, line] of lines.entries()) {
        if (!line.includes('- apiGroups:')) continue
        rules.push(line)
        // A role of one rule or of one idea says its reason above itself.
        const above = lines.slice(0, index).reverse()
        const reason = above.findIndex(text => /^\s*#/.test(text))
        const between = above.slice(0, reason === -1 ? undefined : reason).join('\n')
        expect(between, `${file}:${index + 1}`).not.toMatch(/^---$/m)
      }
    }
    expect(rules.length).toBeGreaterThan(15)
  })

  test('leaves no right in other namespaces when it is for one', async () => {
    const objects = await render(['watchNamespace=disks', 'rbac.aggregate=false'])
    const wide = objects.filter(({ kind }) => kind.startsWith('ClusterRole'))
    expect(wide.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual([
      'ClusterRole odd-ondemand-disk-agent',
    ])
    const operator = find(objects, 'Deployment', 'odd-ondemand-disk').spec.template.spec.containers[0]
    expect(operator.args).toContain('--namespace=disks')
    expect(find(objects, 'Role', 'odd-ondemand-disk').metadata.namespace).toBe('disks')
  })

  test('has a leader for each namespace that a release is for', async () => {
    // Of two releases in one namespace the second waited for the Lease of the first, and looked after nothing.
    const long = (end: string) => `${'n'.repeat(62)}${end}`
    const names: string[] = []
    for (const watched of ['', 'disks', 'other', long('a'), long('b'), 'a'.repeat(40)]) {
      const objects = await render([`watchNamespace=${watched}`])
      const [operator] = find(objects, 'Deployment', 'odd-ondemand-disk').spec.template.spec.containers
      const args: string[] = operator.args
      const told = args.find(arg => arg.startsWith('--lease-name='))?.slice('--lease-name='.length)
      const name = told ?? 'ondemand-disk-operator'
      expect(name).toMatch(/^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/)
      const { rules } = find(objects, 'Role', 'odd-ondemand-disk-leader')
      expect(rules[1].resourceNames).toEqual([name])
      names.push(name)
    }
    expect(names.slice(0, 2)).toEqual(['ondemand-disk-operator', 'ondemand-disk-operator-disks'])
    expect(new Set(names).size).toBe(names.length)
    const [alert] = find(
      await render(['metrics.prometheusRule.enabled=true']),
      'PrometheusRule',
      'odd-ondemand-disk',
    ).spec.groups[0].rules
    const [, pattern = ''] = /leader_election_master_status\{name=~"([^"]+)"\}/.exec(alert.expr) ?? []
    for (const name of names) expect(name).toMatch(new RegExp(`^(?:${pattern})$`))
  })

  test('runs the image of the version, of the tag or, above all, of the digest', async () => {
    const image = async (...values: string[]) => {
      const objects = await render([...values, 'image.repository=registry.example/odd'])
      const images = podsOf(objects).flatMap(({ containers }) =>
        containers.map(({ image }: KubeObject) => image),
      )
      const [told] = find(
        objects,
        'Deployment',
        'odd-ondemand-disk',
      ).spec.template.spec.containers[0].args.filter((arg: string) => arg.startsWith('--image='))
      return [...new Set([...images, told.slice('--image='.length)])]
    }
    const { appVersion } = parseYaml(readFileSync(join(chart, 'Chart.yaml'), 'utf8'))
    const digest = `sha256:${'0123456789abcdef'.repeat(4)}`
    expect(await image()).toEqual([`registry.example/odd:${appVersion}`])
    expect(await image('image.tag=v9')).toEqual(['registry.example/odd:v9'])
    expect(await image('image.tag=v9', `image.digest=${digest}`)).toEqual([`registry.example/odd@${digest}`])
  })

  test('has the version of the package', () => {
    const { version, appVersion } = parseYaml(readFileSync(join(chart, 'Chart.yaml'), 'utf8'))
    const own = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8'))
    expect([version, appVersion]).toEqual([own.version, own.version])
  })

  test('brings the CRDs as they are', async () => {
    const crds = parseAllDocuments(await helm('show', 'crds', chart))
      .map(document => document.toJS())
      .filter(Boolean)
    for (const name of ['diskpool', 'disksnapshot', 'ondemanddisk']) {
      const own = parseYaml(readFileSync(join(import.meta.dirname, '../crds', `${name}.yaml`), 'utf8'))
      expect(crds).toContainEqual(own)
    }
    expect(crds).toHaveLength(3)
  })

  test('makes a default pool that the API takes, and that Helm does not delete', async () => {
    const objects = await render(['defaultPool.enabled=true', 'defaultPool.name=fast'])
    const pool = find(objects, 'DiskPool', 'fast')
    expect(parseDiskPool(pool).spec.storage.claimTemplate?.size).toBe(100 * 1024 ** 3)
    expect(pool.metadata.annotations).toEqual({ 'helm.sh/resource-policy': 'keep' })
    const deletion = find(objects, 'Role', 'odd-ondemand-disk-hooks-pool').rules
    expect(deletion).toEqual([
      {
        apiGroups: ['ondemanddisk.dev'],
        resources: ['diskpools'],
        resourceNames: ['fast'],
        verbs: ['delete'],
      },
    ])
  })

  test('keeps its own labels whatever commonLabels says, and text whatever the release is called', async () => {
    // Both made objects that no API server takes: one key twice, and a number.
    const labels = [
      'commonLabels.app\\.kubernetes\\.io/part-of=platform',
      'commonLabels.app\\.kubernetes\\.io/component=x',
    ]
    const objects = await render([...EVERYTHING, ...labels, 'csi.enabled=true'])
    const [deployment] = objects.filter(({ kind }) => kind === 'Deployment')
    const { selector, template } = deployment.spec
    expect(template.metadata.labels).toMatchObject({
      ...selector.matchLabels,
      'app.kubernetes.io/part-of': 'ondemand-disk',
      team: 'storage',
    })
    const text = await helm(
      'template',
      '7',
      chart,
      '--namespace',
      NAMESPACE,
      '--set-string',
      'nameOverride=8',
    )
    for (const document of parseAllDocuments(text)) {
      const { labels } = document.toJS().metadata
      expect(labels).toMatchObject({ 'app.kubernetes.io/instance': '7', 'app.kubernetes.io/name': '8' })
    }
  })

  test('has each label once, where several values give it', async () => {
    // They stood twice, and of `podLabels` the second one was none that the Deployment's selector finds.
    const objects = await render([
      ...EVERYTHING,
      ...['release', 'grafana_dashboard'].map(key => `commonLabels.${key}=common`),
      'operator.podLabels.release=own',
      'operator.podLabels.app\\.kubernetes\\.io/name=x',
      'operator.podLabels.app\\.kubernetes\\.io/component=x',
      ...['podMonitor', 'prometheusRule', 'dashboard'].map(part => `metrics.${part}.labels.release=own`),
    ])
    const { selector, template } = find(objects, 'Deployment', 'odd-ondemand-disk').spec
    expect(template.metadata.labels).toMatchObject({ ...selector.matchLabels, release: 'own' })
    for (const [kind, name] of [
      ['PodMonitor', 'odd-ondemand-disk'],
      ['PodMonitor', 'odd-ondemand-disk-pools'],
      ['PrometheusRule', 'odd-ondemand-disk'],
      ['ConfigMap', 'odd-ondemand-disk-dashboard'],
    ] as const)
      expect(find(objects, kind, name).metadata.labels).toMatchObject({
        'app.kubernetes.io/instance': 'odd',
        team: 'storage',
        release: 'own',
        grafana_dashboard: kind === 'ConfigMap' ? '1' : 'common',
      })
  })

  test('renders names of digits alone, or of a word of YAML, as text', async () => {
    // `--set-string fullnameOverride=123` and `--namespace 123` became numbers, which no API server takes as a name.
    const DIGITS = {
      nameOverride: '8001',
      fullnameOverride: '8002',
      watchNamespace: '8003',
      'serviceAccount.name': '8004',
      'operator.priorityClassName': '8005',
      'imagePullSecrets[0].name': '8006',
      'csi.storageClasses[0].name': '8007',
      'csi.storageClasses[0].pool': '8008',
      'csi.storageClasses[0].parameters.8009': '8010',
      'csi.snapshotClasses[0].name': '8011',
      'csi.controller.priorityClassName': '8012',
      'csi.node.priorityClassName': '8013',
      'csi.sidecars.provisioner.image': '8014',
      'csi.sidecars.registrar.image': '8015',
      'csi.node.grpcProxy.image': '8016',
      'commonLabels.team': '8017',
      'defaultPool.name': 'true',
    }
    const texts = [...Object.values(DIGITS), '8018', '8019']
    const flags = (values: object) =>
      Object.entries(values).flatMap(([key, value]) => ['--set-string', `${key}=${value}`])
    const switches = settings([...EVERYTHING.slice(0, -1), 'csi.enabled=true'])
    for (const values of [DIGITS, { ...DIGITS, watchNamespace: '', fullnameOverride: '' }]) {
      const text = await helm('template', '8018', chart, '-n', '8019', ...switches, ...flags(values))
      const objects = parseAllDocuments(text).map(document => document.toJS())
      const mistaken: string[] = []
      JSON.stringify(objects, (key, value) => {
        const isText = typeof value === 'string' || typeof value === 'object'
        // `true` is what some fields really are; none of them is a name.
        const isSwitch = value === true && !/name/i.test(key)
        if (!isText && !isSwitch && texts.includes(String(value))) mistaken.push(`${key}: ${value}`)
        return value
      })
      expect(mistaken).toEqual([])
      const name = values.fullnameOverride || '8018-8001'
      expect(find(objects, 'Deployment', name).metadata.namespace).toBe('8019')
      expect(find(objects, 'DiskPool', 'true').metadata.namespace).toBe(values.watchNamespace || '8019')
      expect(find(objects, 'StorageClass', '8007').parameters).toMatchObject({ '8009': '8010', pool: '8008' })
    }
  })

  test('has examples that the API takes', () => {
    const folder = join(chart, 'examples')
    const kinds: string[] = []
    for (const file of readdirSync(folder)) {
      const documents = parseAllDocuments(readFileSync(join(folder, file), 'utf8'), { uniqueKeys: true })
      for (const object of documents.map(document => document.toJS())) {
        kinds.push(object.kind)
        if (object.kind === 'DiskPool') parseDiskPool(object)
        if (object.kind === 'OnDemandDisk') parseOnDemandDisk(object)
      }
    }
    expect(kinds.sort()).toEqual(['DiskPool', 'DiskPool', 'OnDemandDisk', 'Pod'])
  })

  test('renders for old and new Kubernetes', async () => {
    const budget = async (version: string, ...apis: string[]) => {
      const capabilities = ['--kube-version', version, ...apis.flatMap(api => ['--api-versions', api])]
      const objects = await render(['operator.replicas=2'], ...capabilities)
      return find(objects, 'PodDisruptionBudget', 'odd-ondemand-disk').apiVersion
    }
    expect(await budget('1.36.0', 'policy/v1')).toBe('policy/v1')
    await expect(render([], '--kube-version', '1.19.0')).rejects.toThrow('>=1.20.0-0')
  })

  test('needs no operator of Prometheus unless it is told to', async () => {
    const groups = (objects: KubeObject[]) =>
      new Set(objects.map(({ apiVersion }) => apiVersion.split('/')[0]))
    expect(groups(await render())).not.toContain('monitoring.coreos.com')
    expect(groups(await render(EVERYTHING))).toContain('monitoring.coreos.com')
  })

  test('alerts and draws by metrics that there are', async () => {
    const known = ['docs/metrics.md', 'operator/kube/metrics.ts']
      .map(file => readFileSync(join(import.meta.dirname, '..', file), 'utf8'))
      .join('\n')
    const objects = await render(EVERYTHING)
    const alerts = find(objects, 'PrometheusRule', 'odd-ondemand-disk').spec.groups.flatMap(
      ({ rules }: KubeObject) => rules,
    )
    const dashboard = JSON.parse(
      find(objects, 'ConfigMap', 'odd-ondemand-disk-dashboard').data['ondemand-disk.json'],
    )
    const expressions: string[] = [
      ...alerts.map(({ expr }: KubeObject) => expr),
      ...dashboard.panels.flatMap(({ targets }: KubeObject) => targets.map(({ expr }: KubeObject) => expr)),
    ]
    expect(expressions.length).toBeGreaterThan(15)
    const metrics = expressions.flatMap(
      expr => expr.match(/\b(?:ondemand_disk|controller_runtime|workqueue|leader|process)_\w+/g) ?? [],
    )
    for (const metric of new Set(metrics))
      expect(known, metric).toMatch(new RegExp(`['\`]${metric.replace(/_bucket$/, '')}['\`]`))
    for (const { annotations } of alerts)
      expect(Object.keys(annotations).sort()).toEqual(['description', 'summary'])
  })
})

describe('Values that are wrong are refused, and named', () => {
  test.for([
    ['operator.replicas=many', 'replicas'],
    ['operator.replicas=-1', 'replicas'],
    ['operator.logLevel=loud', 'logLevel'],
    ['operator.resource.limits.memory=1Gi', 'resource'],
    ['operator.podLabels.x=1', 'podLabels'],
    ['image.repository=', 'repository'],
    ['image.digest=sha256:12', 'digest'],
    ['image.tag=a b', 'tag'],
    ['image.pullPolicy=Sometimes', 'pullPolicy'],
    ['imagePullSecrets[0].nam=x', 'imagePullSecrets'],
    ['watchNamespace=Not_a_name', 'watchNamespace'],
    ['fullnameOverride=-x', 'fullnameOverride'],
    // A number may have lost its zeros by now: it is text by --set-string, or in quotes.
    ['fullnameOverride=123', 'fullnameOverride'],
    ['watchNamespace=123', 'watchNamespace'],
    ['metrics.port=80', 'port'],
    ['metrics.podMonitor.interval=often', 'interval'],
    ['defaultPool.name=9lives', 'defaultPool/name'],
    ['defaultPool.spec.storage=null', 'storage'],
    ['uninstall.allowWithDisks=perhaps', 'allowWithDisks'],
    ['uninstall.force=true', 'force'],
    // What remains of a part of which all lines are comments. It was a nil pointer in some template.
    ['csi=null', 'csi'],
    // As of a value that was left empty: options without their argument, and paths of `%!s(<nil>)`.
    ['image.pullPolicy=null', 'pullPolicy'],
    ['operator.logLevel=null', 'logLevel'],
    ['metrics.port=null', 'port'],
    ['csi.kubeletDir=null', 'kubeletDir'],
    ['csi.node.metricsPort=null', 'metricsPort'],
    ['uninstall.timeoutSeconds=null', 'timeoutSeconds'],
    ['metrics=null', 'metrics'],
    ['csi.node.grpcProxy=null', 'grpcProxy'],
    ['csi.sidecars.registrar=null', 'registrar'],
    // Each is a value of its own, and stood twice.
    [
      'csi.storageClasses[0].name=a,csi.storageClasses[0].pool=b,csi.storageClasses[0].parameters.pool=c',
      'propertyName',
    ],
    ['typo=1', 'typo'],
  ] as const)('%s', async ([value, named]) => {
    const refusal = render([value])
    await expect(refusal).rejects.toThrow("values don't meet the specifications of the schema")
    await expect(refusal).rejects.toThrow(named)
  })
})
