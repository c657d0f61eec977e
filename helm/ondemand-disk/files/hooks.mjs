// What the chart's hooks run, with the image's own Node.js: `node hooks.mjs uninstall` before an uninstall,
// `node hooks.mjs test` for `helm test`. Exit status 1, with the reason in the last line: no.
import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'
const GROUP = '/apis/ondemanddisk.dev/v1alpha1'
/** A list longer than this is cut short when it is told. */
const TOLD = 10

const {
  KUBERNETES_SERVICE_HOST,
  KUBERNETES_SERVICE_PORT,
  WATCH_NAMESPACE,
  POOL_NAMESPACE,
  POOL,
  RELEASE_NAMESPACE,
  DEPLOYMENT,
  ALLOW_WITH_DISKS,
} = process.env

/** One request to the API server: the object, or undefined where there is none. */
const api = (method, path) =>
  new Promise((resolve, reject) => {
    const options = {
      method,
      host: KUBERNETES_SERVICE_HOST,
      port: KUBERNETES_SERVICE_PORT,
      path,
      ca: readFileSync(`${ACCOUNT}/ca.crt`),
      headers: { authorization: `Bearer ${readFileSync(`${ACCOUNT}/token`, 'utf8')}` },
      timeout: 10_000,
    }
    request(options, response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      response.on('end', () => {
        if (response.statusCode === 404) resolve(undefined)
        else if (response.statusCode < 300) resolve(JSON.parse(text))
        else reject(new Error(`${method} ${path}: the API server answers ${response.statusCode}: ${text}`))
      })
    })
      .on('timeout', function () {
        this.destroy(new Error('The API server does not answer'))
      })
      .on('error', reject)
      .end()
  })

/**
 * The first objects of a kind in the namespaces that the operator looks after, and how many there are beside; none where
 * there is no such kind. All of them might be more than this pod may keep.
 */
const list = async plural => {
  const path = WATCH_NAMESPACE ? `${GROUP}/namespaces/${WATCH_NAMESPACE}/${plural}` : `${GROUP}/${plural}`
  const { items = [], metadata } = (await api('GET', `${path}?limit=${TOLD + 1}`)) ?? {}
  return { items, rest: metadata?.remainingItemCount ?? 0 }
}

const told = (objects, rest) => {
  const names = objects.slice(0, TOLD).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`)
  const more = objects.length - names.length + rest
  return `${names.join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}

const HOW = 'or upgrade the release with uninstall.allowWithDisks=true to leave them as they are.'

/** Refuses while there are disks or pools; the release's own pool, when it is empty, goes first. */
async function uninstall() {
  if (ALLOW_WITH_DISKS === 'true') return 'Whatever disks and pools there are stay as they are.'
  const isOwn = ({ metadata }) => metadata.namespace === POOL_NAMESPACE && metadata.name === POOL
  for (const [plural, what] of [
    ['ondemanddisks', 'Disks'],
    ['disksnapshots', 'Snapshots'],
    ['diskpools', 'Pools'],
  ]) {
    const { items, rest } = await list(plural)
    const left = plural === 'diskpools' ? items.filter(pool => !isOwn(pool)) : items
    if (left.length > 0) throw new Error(`${what} are left: ${told(left, rest)}. Delete them first, ${HOW}`)
  }
  if (POOL) {
    const path = `${GROUP}/namespaces/${POOL_NAMESPACE}/diskpools/${POOL}`
    await api('DELETE', path)
    // The hook's own deadline ends this.
    while ((await api('GET', path)) !== undefined) await sleep(500)
  }
  return 'There are neither disks nor pools.'
}

const condition = (object, type) => object?.status?.conditions?.find(entry => entry.type === type)

/** Fails unless the operator runs, and the release's pool, if it has one, is ready and speaks NBD. */
async function test() {
  const path = `/apis/apps/v1/namespaces/${RELEASE_NAMESPACE}/deployments/${DEPLOYMENT}`
  await until('The operator is not available', async () => {
    const available = condition(await api('GET', path), 'Available')
    return available?.status === 'True' ? undefined : (available?.message ?? 'no condition Available')
  })
  await list('ondemanddisks')
  if (!POOL) return 'The operator is available.'
  await until(`The pool ${POOL} is not ready`, async () => {
    const pool = await api('GET', `${GROUP}/namespaces/${POOL_NAMESPACE}/diskpools/${POOL}`)
    const ready = condition(pool, 'Ready')
    return ready?.status === 'True' ? undefined : (ready?.message ?? 'no condition Ready')
  })
  await until(`The pool ${POOL} does not answer`, () => greeting(`${POOL}.${POOL_NAMESPACE}.svc`))
  return `The operator is available, and the pool ${POOL} answers.`
}

/** Undefined when an NBD server greets there (its first bytes are fixed), else what happened. */
const greeting = host =>
  new Promise(resolve => {
    const socket = connect({ host, port: 10809, timeout: 5000 })
    const end = answer => {
      socket.destroy()
      resolve(answer)
    }
    socket.on('data', data =>
      end(data.toString('latin1').startsWith('NBDMAGIC') ? undefined : 'no NBD server'),
    )
    socket.on('timeout', () => end('no answer'))
    socket.on('error', error => end(error.message))
    socket.on('close', () => end('closed at once'))
  })

/** Tries until nothing is wrong; the hook's own deadline is later than this one. */
async function until(what, wrong) {
  const end = Date.now() + 60_000
  for (;;) {
    const reason = await wrong()
    if (reason === undefined) return
    if (Date.now() > end) throw new Error(`${what}: ${reason}`)
    await sleep(500)
  }
}

const tasks = { uninstall, test }
try {
  process.stdout.write(`${await tasks[process.argv[2]]()}\n`)
} catch (error) {
  process.stdout.write(`${error.message}\n`)
  process.exitCode = 1
}
