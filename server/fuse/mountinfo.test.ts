import { expect, test } from 'vitest'
import { parseMountinfo } from './mountinfo.ts'

test('mounts come out with their names as they are', () => {
  const name = Buffer.from('/tmp/\\040ü\\134\\011').toString('latin1')
  const text = `22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw
43 22 0:39 /a ${name} ro,nosuid - fuse.ondemand-disk nbd://host/a\\040b rw,user_id=0
broken
`
  expect(parseMountinfo(text)).toEqual([
    { device: '254:0', root: '/', mountpoint: '/', readOnly: false, type: 'ext4', source: '/dev/root' },
    {
      device: '0:39',
      root: '/a',
      mountpoint: '/tmp/ ü\\\t',
      readOnly: true,
      type: 'fuse.ondemand-disk',
      source: 'nbd://host/a b',
    },
  ])
})
