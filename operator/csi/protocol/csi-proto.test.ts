import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { loadServices } from './definition.ts'

const text = readFileSync(`${import.meta.dirname}/csi.proto`, 'utf8')

test('Fields that may hold secrets are marked so, and no others are', () => {
  const fields = [...text.matchAll(/^ +(?:[\w.<>, ]+) (\w+) = \d+(.*);$/gm)]
  expect(fields.length).toBeGreaterThan(100)
  for (const [line, name, options = ''] of fields) {
    expect(options.trim(), line).toBe(name === 'secrets' ? '[(csi_secret) = true]' : '')
  }
})

test('Numbers of 64 bits, names and messages that are not there survive the wire', () => {
  const { CreateVolume } = loadServices().controller
  const sent = {
    name: 'pvc-1',
    capacityRange: { requiredBytes: '9223372036854775807', limitBytes: '0' },
    volumeCapabilities: [{ block: {}, accessMode: { mode: 'SINGLE_NODE_MULTI_WRITER' } }],
    parameters: { pool: 'lab' },
  }
  expect(CreateVolume?.requestDeserialize(CreateVolume.requestSerialize(sent))).toMatchObject({
    ...sent,
    secrets: {},
    mutableParameters: {},
    volumeContentSource: null,
  })
})

// Written out by hand from the specification's numbers: tag = number * 8 + wire type.
test('A request looks on the wire as the specification has it', () => {
  const { ControllerPublishVolume } = loadServices().controller
  const bytes = Buffer.concat([
    Buffer.from([0x0a, 3, ...Buffer.from('a/b')]),
    Buffer.from([0x12, 2, ...Buffer.from('n1')]),
    Buffer.from([0x1a, 9, 0x12, 5, 0x0a, 3, ...Buffer.from('xfs'), 0x1a, 0]),
    Buffer.from([0x20, 1]),
  ])
  expect(ControllerPublishVolume?.requestDeserialize(bytes)).toMatchObject({
    volumeId: 'a/b',
    nodeId: 'n1',
    volumeCapability: { mount: { fsType: 'xfs' }, accessMode: { mode: 'UNKNOWN' } },
    readonly: true,
  })
})
