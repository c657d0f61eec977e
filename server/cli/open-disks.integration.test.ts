import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { createLog } from './log.ts'
import { openDisks } from './open-disks.ts'
import { parseServeOptions } from './serve-options.ts'

const MAIN = join(import.meta.dirname, '../main.ts')

test.each([[[]], [['--temporary']]])('A type that no mkfs makes is a bad option (%j)', others => {
  const dir = mkdtempSync(join(tmpdir(), 'open-disks-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const argv = ['serve', '--dir', dir, '--size', '1G', '--type', 'nosuchfs', '--listen', '127.0.0.1:0']
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...argv, ...others], { encoding: 'utf8' })
  const reason = 'There is no program mkfs.nosuchfs on this machine; install it or choose another type.'
  expect(stderr).toBe(`ondemand-disk: --type: ${reason}\n`)
  expect(status).toBe(2)
  expect(readdirSync(dir)).toEqual([])
})

test.each([
  [[], true],
  [['--max-size', '8M'], false],
])('Any name will do for a temporary disk, unless sizes are in names (%j: %s)', async (more, expected) => {
  const argv = ['--temporary', '--size', '1M', '--command', 'truncate -s "$size" "$disk"', ...more]
  const log = createLog('error', 2, false)
  const disks = await openDisks(parseServeOptions(argv), log, {
    created() {},
    termsChanged() {},
    changed() {},
  })
  onTestFinished(() => disks.close())
  expect(disks.undeclared?.anyName).toBe(expected)
})
