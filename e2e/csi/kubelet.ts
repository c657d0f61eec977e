/**
 * What a kubelet does with the node plug-in, and looks at in the kernel. Runs in the thin client:
 * `node kubelet.js CONTROL NBD`, both ports of 10.0.2.2. At the first, `POST /WHAT` lets the test do something to the
 * server of the pool, which listens on the second.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises'
import { uptime } from 'node:os'
import { join } from 'node:path'
import type { VolumeCapability } from '../../operator/csi/protocol/messages.ts'
import { readMounts } from '../../server/fuse/mountinfo.ts'
import { until } from '../until.ts'
import { type CsiClient, connectDriver, Refused } from './client.ts'

const [, , control = '', port = ''] = process.argv
const KUBELET = '/var/lib/kubelet'
const SOCKET = `${KUBELET}/plugins/csi.ondemanddisk.dev/csi.sock`
const METRICS = '127.0.0.1:10808'
const PROGRAM = join(import.meta.dirname, '../../operator/main.js')
/** The processor is emulated, on a machine that may have much to do. */
const LONG_MS = 300_000
const PLUGIN_LOG = '/tmp/plugin.log'

/** With the seconds since the thin client started. */
function say(what: string): void {
  process.stdout.write(`${Math.round(uptime())} s: ${what}\n`)
}

async function server(what: string): Promise<void> {
  const answer = await fetch(`http://10.0.2.2:${control}/${what}`, { method: 'POST' })
  assert.equal(answer.status, 200, `${what}: ${await answer.text()}`)
}

// --- The plug-in

let plugin: ChildProcess
let csi: CsiClient

/**
 * As in the pod of the DaemonSet: a mount namespace of its own, with the kubelet's folder shared, and the host's network.
 * Without `--host-dir`, which is for processes that serve devices: there are none, and to copy the program takes minutes here.
 */
const POD = ['unshare', '--mount', '--uts', '--ipc', '--propagation', 'unchanged']

async function startPlugin(): Promise<void> {
  const args = [
    ...POD.slice(1),
    ...[process.execPath, '--max-semi-space-size=4', PROGRAM],
    ...['csi', '--services=node', `--endpoint=unix://${SOCKET}`, '--node-id=thin-client'],
    ...[`--metrics=${METRICS}`, '--log-level=debug'],
  ]
  const env = { ...process.env, NODE_COMPILE_CACHE: '/tmp/compile-cache' }
  plugin = spawn(POD[0] as string, args, { env, stdio: ['ignore', 'ignore', 'pipe'] })
  plugin.stderr?.pipe(createWriteStream(PLUGIN_LOG, { flags: 'a' }))
  await until('the plug-in is ready', LONG_MS, async () => {
    assert.equal(plugin.exitCode, null, 'The plug-in has ended.')
    return fetch(`http://${METRICS}/readyz`).then(
      ({ ok }) => ok,
      () => false,
    )
  })
  csi = connectDriver(SOCKET)
  assert.deepEqual(await csi.call('Probe', {}, LONG_MS), { ready: { value: true } })
}

async function killPlugin(): Promise<void> {
  csi.close()
  const closed = once(plugin, 'close')
  plugin.kill('SIGKILL')
  await closed
}

// --- What the kernel has

const textOf = (path: string) =>
  readFile(path, 'utf8').then(
    text => text.trim(),
    () => undefined,
  )

/** The devices of the NBD driver that have a connection, by the names of their exports. */
async function devices(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>()
  for (const name of await readdir('/sys/block')) {
    if (!name.startsWith('nbd') || (await textOf(`/sys/block/${name}/pid`)) === undefined) continue
    const [, disk = ''] =
      /^nbd:\/\/[^/]+\/(\w+)/.exec((await textOf(`/sys/block/${name}/backend`)) ?? '') ?? []
    found.set(disk, `/dev/${name}`)
  }
  return found
}

async function loops(): Promise<readonly string[]> {
  const names = (await readdir('/sys/block')).filter(name => name.startsWith('loop'))
  const used = await Promise.all(names.map(name => textOf(`/sys/block/${name}/loop/backing_file`)))
  return names.filter((_, at) => used[at] !== undefined)
}

/** What is mounted below the kubelet's folder. */
const mounted = async () =>
  (await readMounts())
    .filter(({ mountpoint }) => mountpoint.startsWith(`${KUBELET}/`))
    .map(({ source, root, mountpoint }) => [root === '/' ? source : `/dev${root}`, mountpoint])
    .sort()

// --- Volumes

interface Volume {
  readonly staging: string
  readonly target: string
  stage(deadline?: number): Promise<unknown>
  publish(): Promise<unknown>
  unpublish(): Promise<unknown>
  unstage(deadline?: number): Promise<unknown>
  /** Of what it is asked for: bytes. */
  stats(): Promise<number>
  expand(bytes: number): Promise<unknown>
}

const mode = { mode: 'SINGLE_NODE_WRITER' } as const
const mount: VolumeCapability = {
  mount: { fsType: 'ext4', mountFlags: [], volumeMountGroup: '' },
  accessMode: mode,
}
const block: VolumeCapability = { block: {}, accessMode: mode }

async function volume(name: string, volumeCapability: VolumeCapability): Promise<Volume> {
  const volumeId = `default/${name}`
  const staging = `${KUBELET}/plugins/kubernetes.io/csi/${name}/globalmount`
  const target = `${KUBELET}/pods/${name}/mount`
  await mkdir(staging, { recursive: true })
  await mkdir(`${KUBELET}/pods/${name}`, { recursive: true })
  const publishContext = { uri: `nbd://10.0.2.2:${port}/${name}/ticket-1`, readonly: 'false' }
  const common = { volumeId, volumeCapability, publishContext, stagingTargetPath: staging }
  return {
    staging,
    target,
    stage: (deadline = LONG_MS) => csi.call('NodeStageVolume', common, deadline),
    publish: () => csi.call('NodePublishVolume', { ...common, targetPath: target }, LONG_MS),
    unpublish: () => csi.call('NodeUnpublishVolume', { volumeId, targetPath: target }, LONG_MS),
    unstage: (deadline = LONG_MS) =>
      csi.call('NodeUnstageVolume', { volumeId, stagingTargetPath: staging }, deadline),
    async stats() {
      const asked = { volumeId, volumePath: target }
      const { usage } = await csi.call('NodeGetVolumeStats', asked, LONG_MS)
      return Number(usage[0]?.total)
    },
    expand: bytes =>
      csi.call(
        'NodeExpandVolume',
        { volumeId, volumePath: target, capacityRange: { requiredBytes: `${bytes}` } },
        LONG_MS,
      ),
  }
}

/** Writes and verifies in a folder until it is stopped; any error of the disk, or wrong byte, is one of `stop`. */
function keepBusy(folder: string): { moves(): Promise<void>; stop(): Promise<void> } {
  let rounds = 0
  let isOver = false
  let failure: Error | undefined
  const job = [
    ...['--name=verify', `--directory=${folder}`, '--size=2M', '--bsrange=4k-64k', '--rw=randwrite'],
    ...['--direct=1', '--ioengine=libaio', '--iodepth=8', '--fsync=16'],
    ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
  ]
  const running = (async () => {
    while (!isOver && failure === undefined) {
      const fio = spawn('fio', job, { stdio: ['ignore', 'pipe', 'pipe'] })
      let said = ''
      for (const stream of [fio.stdout, fio.stderr]) stream.on('data', chunk => (said += chunk))
      const [status] = await once(fio, 'close')
      if (status !== 0) failure = new Error(`fio ended with ${status}:\n${said}`)
      rounds++
    }
  })()
  const check = () => {
    if (failure !== undefined) throw failure
  }
  return {
    async moves() {
      const before = rounds
      await until('data flow', LONG_MS, async () => {
        check()
        // One may have ended just before.
        return rounds >= before + 2
      })
    },
    async stop() {
      isOver = true
      await running
      check()
    },
  }
}

/** Asks the device, not the page cache. */
async function isReadable(device: string): Promise<boolean> {
  const args = [`if=${device}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct']
  const [status] = await once(spawn('dd', args, { stdio: 'ignore' }), 'close')
  return status === 0
}

/** The driver takes a connection from its own network namespace only, so that none is made in a pod's. */
async function isShownElsewhere(): Promise<boolean> {
  const driver = join(import.meta.dirname, '../../server/attach/nbd-driver.js')
  const ask = `import(${JSON.stringify(driver)}).then(async d => process.exit((await d.hasNbdDriver()) ? 0 : 3))`
  const [status] = await once(
    spawn('unshare', ['--net', process.execPath, '-e', ask], { stdio: 'ignore' }),
    'close',
  )
  assert(status === 0 || status === 3, `${status}`)
  return status === 0
}

async function dropCaches(): Promise<void> {
  await writeFile('/proc/sys/vm/drop_caches', '3')
}

/** Writes through to the server. */
async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'w')
  await file.writeFile(text)
  await file.sync()
  await file.close()
}

const refusal = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof Refused && error.code === code && words.test(error.message)

const MIB = 2 ** 20

async function run(): Promise<void> {
  say('the kubelet runs')
  await mkdir(`${KUBELET}/plugins/csi.ondemanddisk.dev`, { recursive: true })
  await startPlugin()
  say('the plug-in is ready')
  assert.equal((await csi.call('NodeGetInfo', {}, LONG_MS)).nodeId, 'thin-client')
  const { capabilities } = await csi.call('NodeGetCapabilities', {}, LONG_MS)
  assert.equal(capabilities.length, 4)

  assert.equal(await isShownElsewhere(), false)

  const data = await volume('data', mount)
  await data.stage()
  await data.publish()
  const device = (await devices()).get('data') ?? ''
  assert.match(device, /^\/dev\/nbd\d+$/)
  const places = [
    [device, data.target],
    [device, data.staging],
  ].sort()
  assert.deepEqual(await mounted(), places)
  assert.deepEqual(await loops(), [])
  say(`data is mounted from ${device}`)
  const size = await data.stats()
  assert(size > 32 * MIB && size < 64 * MIB, `${size}`)

  const busy = keepBusy(data.target)
  await busy.moves()
  await killPlugin()
  await busy.moves()
  await writeDurably(`${data.target}/file`, 'written without a plug-in')
  say('data flow without a plug-in')
  await server('kill')
  await server('start')
  // Nobody has told the kernel of the new server, and nobody saw its connection die.
  await startPlugin()
  await busy.moves()
  say('a new plug-in has connected the disk of a server that was lost meanwhile')
  await data.stage()
  await data.publish()
  assert.deepEqual(await mounted(), places)

  for (let round = 0; round < 2; round++) {
    await server('kill')
    await server('start')
    await busy.moves()
    say('the server is back')
  }
  await server('grow')
  assert.deepEqual(await data.expand(128 * MIB), { capacityBytes: `${128 * MIB}` })
  const larger = await data.stats()
  assert(larger > 1.5 * size, `${larger}, before ${size}`)
  // As often as the kubelet likes.
  await data.expand(128 * MIB)
  await busy.moves()
  say('data has grown in use')
  await server('kill')
  const expanding = data.expand(192 * MIB)
  await server('grow-more')
  await server('start')
  assert.deepEqual(await expanding, { capacityBytes: `${192 * MIB}` })
  const largest = await data.stats()
  assert(largest > 1.2 * larger, `${largest}, before ${larger}`)
  await writeDurably(`${data.target}/large`, 'x'.repeat(140 * MIB))
  await busy.moves()
  say('data has grown while its server came back')
  await busy.stop()
  await dropCaches()
  assert.equal(await readFile(`${data.target}/file`, 'utf8'), 'written without a plug-in')
  assert((await readFile(`${data.target}/large`)).equals(Buffer.alloc(140 * MIB, 'x')))
  await data.unpublish()
  await data.unstage()
  assert.deepEqual([await mounted(), [...(await devices())]], [[], []])
  await data.stage()
  await data.publish()
  assert.equal(await data.stats(), largest)
  assert.equal(await readFile(`${data.target}/file`, 'utf8'), 'written without a plug-in')
  say('data is as large when it is staged anew')

  const raw = await volume('raw', block)
  await raw.stage()
  await raw.publish()
  assert.equal(await raw.stats(), 32 * MIB)
  await writeDurably(raw.target, 'raw')
  assert.equal((await devices()).size, 2)
  await raw.unpublish()
  await raw.unstage()
  await raw.stage()
  await raw.publish()
  assert.equal((await readFile(raw.target)).toString('latin1', 0, 4), 'raw\0')
  await server('grow-raw')
  assert.deepEqual(await raw.expand(64 * MIB), { capacityBytes: `${64 * MIB}` })
  assert.equal(await raw.stats(), 64 * MIB)
  say('raw has been written, and has grown')
  await server('withdraw')
  await until('who has lost a volume gets errors', LONG_MS, async () => !(await isReadable(raw.target)))
  await raw.unpublish()
  await raw.unstage()
  assert.equal((await devices()).size, 1)
  say('raw has been given to another node')

  await data.unpublish()
  await server('kill')
  // Written when it is unmounted, which waits for the server.
  const unstaging = data.unstage().catch((error: unknown) => error)
  await until('the call that waits is seen', LONG_MS, () =>
    data.unstage().then(() => false, refusal('ABORTED', /./)),
  )
  await server('start')
  await until('it is unstaged', LONG_MS, () =>
    data.unstage().then(
      () => true,
      () => false,
    ),
  )
  say(`unstaged, the first call said ${await unstaging}`)
  assert.deepEqual([await mounted(), [...(await devices())], await loops()], [[], [], []])
  const ended = once(plugin, 'close')
  plugin.kill('SIGTERM')
  assert.deepEqual(await ended, [0, null])
}

try {
  await run()
  process.exit(0)
} catch (error) {
  process.stdout.write(`${error instanceof Error ? error.stack : error}\n`)
  process.exit(1)
}
