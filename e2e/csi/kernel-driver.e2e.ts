/**
 * The node plug-in of the CSI driver on a kernel that has the NBD driver: Debian's, in the emulated thin client. What a
 * kubelet asks of it, and what happens to it, is in kubelet.ts.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { check, run, type ServerProcess, scratch, startServer } from '../harness.ts'
import { type Acts, serveActs } from '../thin-client/acts.ts'
import { COMMAND_LINE, HOME, makeGuestTree, needThinClient, toldBy } from '../thin-client/guest.ts'

/** Seconds. Node on an emulated processor takes 5 s to start, and many times that on a machine with much to do. */
const BOOT_LIMIT = 1800

/** What the node plug-in has in its image. */
const PROGRAMS = ['mount', 'umount', 'unshare', 'resize2fs']

test('The node plug-in has its volumes on devices of the kernel driver, whatever is killed', {
  timeout: (BOOT_LIMIT + 120) * 1000,
}, async context => {
  await needThinClient(context, 'fio')
  await using folder = await scratch()
  await using tree = await scratch()
  await makeGuestTree(tree.path, [...PROGRAMS, 'fio'], {
    sources: ['operator/**/*.ts', 'e2e/csi/client.ts', 'e2e/csi/kubelet.ts', 'e2e/until.ts'],
    files: ['operator/csi/protocol/csi.proto'],
    packages: ['@grpc/grpc-js', '@grpc/proto-loader', 'ajv', 'yaml'],
  })

  const [disks, manifests] = [join(folder.path, 'disks'), join(folder.path, 'manifests')]
  for (const path of [disks, manifests]) await mkdir(path)
  const declare = async (name: string, spec: object) => {
    const disk = {
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: { name },
      spec: { poolName: 'lab', access: { tickets: ['ticket-1'] }, ...spec },
    }
    await writeFile(join(manifests, `${name}.yaml`), JSON.stringify(disk))
  }
  await declare('data', { size: '64Mi' })
  await declare('raw', { size: '32Mi', filesystem: { type: 'none' } })
  const options = ['--dir', disks, '--disks', manifests]
  let server: ServerProcess = await startServer(options)
  await using _last = { [Symbol.asyncDispose]: () => server.kill() }
  const { port } = server

  const acts: Acts = {
    kill: () => server.kill(),
    start: async () => {
      server = await startServer(options, { port })
    },
    grow: () => declare('data', { size: '128Mi' }),
    'grow-more': () => declare('data', { size: '192Mi' }),
    'grow-raw': () => declare('raw', { size: '64Mi', filesystem: { type: 'none' } }),
    withdraw: () =>
      declare('raw', { size: '64Mi', filesystem: { type: 'none' }, access: { tickets: ['ticket-2'] } }),
  }
  using control = await serveActs(acts)

  const script = join(folder.path, 'script')
  await writeFile(
    script,
    `${COMMAND_LINE}
     mkdir -p /var/lib/kubelet
     mount --bind /var/lib/kubelet /var/lib/kubelet
     mount --make-rshared /var/lib/kubelet
     node /${HOME}/e2e/csi/kubelet.js ${control.port} ${port} ||
       { cat /tmp/plugin.log; exit 10; }`,
  )
  const booted = await run(
    join(import.meta.dirname, '../thin-client/boot'),
    [script, `${BOOT_LIMIT}`, tree.path],
    {
      timeout: (BOOT_LIMIT + 60) * 1000,
      env: { MEMORY: '2048', PROCESSORS: '2' },
    },
  )
  expect(control.failures, toldBy(booted)).toEqual([])
  expect(booted.status, toldBy(booted)).toBe(0)
  expect(await server.stop()).toBe(0)
  await check('e2fsck', ['-fn', join(disks, 'data')])
  expect((await readFile(join(disks, 'raw'))).toString('latin1', 0, 4)).toBe('raw\0')
})
