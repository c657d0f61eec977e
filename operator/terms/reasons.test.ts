import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { AGENT_REASONS, DISK_REASONS, POOL_REASONS, SNAPSHOT_REASONS } from './reasons.ts'

const page = readFileSync(`${import.meta.dirname}/../../docs/troubleshooting.md`, 'utf8')

test.each([
  ['Disks: what the operator says', DISK_REASONS],
  ['Disks: what the agent says', AGENT_REASONS],
  ['Snapshots', SNAPSHOT_REASONS],
  ['Pools', POOL_REASONS],
])('docs/troubleshooting.md lists the reasons of the code: %s', (title, table) => {
  const section = page.split(/^## /m).find(text => text.startsWith(`${title}\n`)) ?? ''
  const rows = section.split('\n').filter(line => line.startsWith('| `'))
  expect(rows).toEqual(
    Object.entries(table).map(
      ([reason, { meaning, remedy }]) => `| \`${reason}\` | ${meaning} | ${remedy} |`,
    ),
  )
  for (const reason of Object.keys(table)) expect(reason).toMatch(/^[A-Z][A-Za-z]+$/)
})
