import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'

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
