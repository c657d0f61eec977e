import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { exportImage } from './export.ts'
import { readMounts } from './mountinfo.ts'

test('Of two who mount over one file at once one is refused', async ({ skip }) => {
  skip(process.getuid?.() !== 0, 'only root can mount')
  const folder = await mkdtemp(join(tmpdir(), 'export-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const image = join(folder, 'image')
  const mountpoint = join(folder, 'point')
  await writeFile(image, 'on-demand')
  await truncate(image, 2 ** 22)
  await writeFile(mountpoint, '')
  const terms = { mountpoint, writable: false, growable: false, allowOther: 'off' } as const
  const both = await Promise.allSettled([exportImage(image, terms), exportImage(image, terms)])
  for (const outcome of both) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'EEXIST' })
    else await outcome.value.unmount().then(() => outcome.value.ended)
  }
  expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  expect((await readMounts()).filter(mount => mount.mountpoint === mountpoint)).toEqual([])
})
