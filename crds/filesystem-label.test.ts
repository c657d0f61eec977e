import { execFileSync } from 'node:child_process'
import { accessSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { labelProblem } from './filesystem-label.ts'

const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }

function isInstalled(program: string): boolean {
  return env.PATH.split(':').some(folder => {
    try {
      accessSync(join(folder, program))
      return true
    } catch {
      return false
    }
  })
}

/** The longest label of each type, and how its mkfs takes it. */
const longest: readonly [type: string, label: string, options: string[]][] = [
  ['ext4', 'ü23456789012345', ['-qFL']],
  ['xfs', 'x'.repeat(12), ['-qfL']],
  ['vfat', 'X'.repeat(11), ['-n']],
  ['btrfs', 'x'.repeat(255), ['-qfL']],
  ['ntfs', 'ü'.repeat(128), ['-QqFL']],
]

describe.each(longest)('%s', (type, label, options) => {
  test('refuses one character more', () => {
    expect(labelProblem(type, label)).toBeUndefined()
    expect(labelProblem(type, `${label}x`)).toMatch(/too long for .*at most \d+/)
  })

  test('takes the longest label, by its own mkfs', ({ skip }) => {
    for (const program of [`mkfs.${type}`, 'blkid']) {
      if (!isInstalled(program)) skip(`${program} is not installed`)
    }
    const folder = mkdtempSync(join(tmpdir(), 'label-'))
    try {
      const disk = join(folder, 'disk')
      writeFileSync(disk, '')
      truncateSync(disk, 512 * 1024 * 1024)
      execFileSync(`mkfs.${type}`, [...options, label, disk], { env, stdio: 'ignore' })
      const carried = execFileSync('blkid', ['-p', '-o', 'value', '-s', 'LABEL', disk], { env })
      // blkid itself cuts a longer one.
      expect(carried.toString().trim().slice(0, 60)).toBe(label.slice(0, 60))
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

test('a type that is not known here is left to its mkfs', () => {
  expect(labelProblem('f2fs', 'x'.repeat(255))).toBeUndefined()
})
