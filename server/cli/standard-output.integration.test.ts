import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const MAIN = join(import.meta.dirname, '../main.ts')

test.each(['--version', '--help', 'backends'])('%s onto a full disk ends with one line', argument => {
  const full = openSync('/dev/full', 'w')
  try {
    const { status, stderr } = spawnSync(process.execPath, [MAIN, argument], {
      stdio: ['ignore', full, 'pipe'],
      encoding: 'utf8',
    })
    expect(stderr).toBe('ondemand-disk: Standard output cannot be written (ENOSPC).\n')
    expect(status).toBe(1)
  } finally {
    closeSync(full)
  }
})

test('An error that cannot be told still has its exit code', () => {
  const full = openSync('/dev/full', 'w')
  try {
    const { status } = spawnSync(process.execPath, [MAIN, 'serve', '--bogus'], {
      stdio: ['ignore', 'ignore', full],
    })
    expect(status).toBe(2)
  } finally {
    closeSync(full)
  }
})
