import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { InvalidSpecError } from '../../crds/ondemanddisk.ts'
import { type ManifestDocument, parseManifest } from './manifest-file.ts'

const manifest = (name: string, spec = 'size: 1Gi') =>
  `apiVersion: ondemanddisk.dev/v1alpha1\nkind: OnDemandDisk\nmetadata:\n  name: ${name}\nspec:\n  ${spec}\n`

const parse = (text: string | Uint8Array) => parseManifest(Buffer.from(text), 'strict')

/** The error of a file of one document. */
async function refusal(text: string | Uint8Array): Promise<ManifestDocument & { content: InvalidSpecError }> {
  const [document, ...rest] = await parse(text)
  expect(rest).toEqual([])
  if (document?.content instanceof InvalidSpecError) return { ...document, content: document.content }
  expect.unreachable('the file was accepted')
}

test('one document is one disk', async () => {
  const [document] = await parse(manifest('alice'))
  expect(document).toMatchObject({ line: 1, object: '/alice', exportName: 'alice' })
  expect(document?.content).toMatchObject({ spec: { size: 1024 ** 3 } })
})

test('several documents, comments and empty ones between them', async () => {
  const text = `# disks\n---\n${manifest('a')}---\n# nothing\n---\n${manifest('b')}...\n`
  const documents = await parse(text)
  expect(documents.map(({ object, line }) => [object, line])).toEqual([
    ['/a', 3],
    ['/b', 12],
  ])
})

test('JSON, flow style, a byte order mark and Windows line ends are fine', async () => {
  const object = {
    apiVersion: 'ondemanddisk.dev/v1alpha1',
    kind: 'OnDemandDisk',
    metadata: { name: 'a', namespace: 'n' },
    spec: { size: '1Gi' },
  }
  for (const text of [
    JSON.stringify(object),
    JSON.stringify(object, undefined, 2),
    JSON.stringify(object).replace('{', '{ # YAML\n'),
    `\ufeff${JSON.stringify(object)}`,
  ]) {
    expect(await parse(text), text).toMatchObject([
      { object: 'n/a', exportName: 'a', content: { spec: { size: 1024 ** 3 } } },
    ])
  }
  expect((await parse(manifest('a').replaceAll('\n', '\r\n')))[0]?.content).not.toBeInstanceOf(Error)
})

test('an alias is followed', async () => {
  const spec = 'size: 1Gi\n  access: {allow: &net [10.0.0.0/8], deny: *net}'
  expect((await parse(manifest('a', spec)))[0]?.content).toMatchObject({
    spec: { access: { allow: ['10.0.0.0/8'], deny: ['10.0.0.0/8'] } },
  })
})

describe('a file that is wrong says why', () => {
  test.each([
    ['empty', '', /holds no object/],
    ['blank', ' \n\n', /holds no object/],
    ['only a comment', '# later', /holds no object/],
    ['only document ends', '---\n---\n', /holds no object/],
    ['not UTF-8', Buffer.from([0x61, 0xff]), /not UTF-8/],
    ['a word', 'disk', /kind OnDemandDisk/],
    ['a list', '- a', /kind OnDemandDisk/],
    ['cut in a string', '{"kind": "OnDem', /Line 1: the YAML is broken/],
    ['cut in an object', '{"kind": "OnDemandDisk"', /Line 1: the YAML is broken/],
    ['an unknown tag', manifest('a', 'size: !secret 1Gi'), /Line 6: the YAML is broken/],
    ['an alias to nothing', manifest('a', 'size: *nowhere'), /cannot be used\. Unresolved alias/],
    [
      'another kind',
      manifest('a').replace('OnDemandDisk', 'Secret'),
      /^kind: Give OnDemandDisk, not "Secret"/,
    ],
    ['an unknown field', manifest('a', 'size: 1Gi\n  sise: 2'), /^spec\.sise: Unknown field/],
    [
      'a bad CIDR',
      manifest('a', 'size: 1\n  access: {allow: [10.0.0/8]}'),
      /^spec\.access\.allow\[0\]: "10\.0\.0\/8"/,
    ],
  ])('%s', async (_, text, message) => {
    expect((await refusal(text)).content.message).toMatch(message)
  })

  test('bad indentation, with its line', async () => {
    const text = manifest('a').replace('  name', '\t name')
    const { line, content } = await refusal(text)
    expect(line).toBe(4)
    expect(content.message).toMatch(/^Line 4: the YAML is broken\. [^\n]*\.$/)
  })

  test('a key that stands there twice, which might hide a rule', async () => {
    const { line, content } = await refusal(manifest('a', 'size: 1Gi\n  access: {deny: [any]}\n  access: {}'))
    expect(content.message).toMatch(/^Line 8: .*"access" stands there twice/)
    expect(line).toBe(8)
  })

  test('and, where that can be read, whose it is', async () => {
    const named = manifest('host', 'size: 1X\n  exportName: alice')
    expect(await refusal(named)).toMatchObject({ object: '/host', exportName: 'alice' })
    expect(await refusal(manifest('a', 'size: [1'))).toMatchObject({ object: '/a', exportName: 'a' })
    expect(await refusal(manifest('a', 'exportName: a/b'))).toMatchObject({
      object: '/a',
      exportName: undefined,
    })
    expect(await refusal('kind: [')).toMatchObject({ object: undefined, exportName: undefined })
  })

  test('the others in the same file are not disturbed', async () => {
    const documents = await parse(`${manifest('a')}---\n${manifest('b', 'size: {')}---\n${manifest('c')}`)
    expect(documents.map(({ object, content }) => [object, content instanceof Error])).toEqual([
      ['/a', false],
      ['/b', true],
      ['/c', false],
    ])
  })
})

describe('YAML that costs far more than its length', () => {
  const MiB = 1024 * 1024
  test.each([
    ['a list of many items', '- a\n'.repeat(MiB / 4)],
    ['many keys', Array.from({ length: 90_000 }, (_, index) => `k${index}: 1`).join('\n')],
    [
      'many keys below the limit',
      `{${Array.from({ length: 4000 }, (_, index) => `k${index}: 1`).join(', ')}}`,
    ],
    ['deep nesting', '['.repeat(MiB)],
    ['deep nesting below the limit', '['.repeat(15_000)],
    ['deep maps', '{a: '.repeat(4000)],
    ['many aliases', `a: &a [1]\nb: [${'*a,'.repeat(4000)}]`],
    [
      'aliases of aliases',
      'abcdefgh'.replace(/./g, key => `${key}: &${key} [${'*z,'.repeat(8)}]\n`).replaceAll('z', 'a'),
    ],
    ['an alias to itself', manifest('a', 'size: 1Gi\n  access: &a\n    allow: *a')],
    ['one long string', `a: "${'\\u0041'.repeat(MiB / 8)}"`],
    ['many documents', '--- a\n'.repeat(10_000)],
  ])('%s is refused in a few seconds at most', async (_, text) => {
    const start = process.cpuUsage()
    const documents = await parse(text)
    // Of processor time, which a busy machine doubles and trebles too; the clock also counts what else it does.
    expect(process.cpuUsage(start).user / 1000).toBeLessThan(3000)
    expect(documents.length).toBeGreaterThan(0)
    for (const { content } of documents) expect(content).toBeInstanceOf(InvalidSpecError)
  })

  test('the event loop keeps its turn while a large file is read', async () => {
    const text = Array.from({ length: 3000 }, (_, index) => manifest(`disk-${index}`)).join('---\n')
    let longest = 0
    let last = process.cpuUsage()
    const beat = setInterval(() => {
      longest = Math.max(longest, process.cpuUsage(last).user / 1000)
      last = process.cpuUsage()
    }, 1)
    const documents = await parse(text)
    clearInterval(beat)
    expect(documents.every(({ content }) => !(content instanceof Error))).toBe(true)
    expect(documents).toHaveLength(3000)
    expect(longest).toBeLessThan(200)
  })
})

test('any text, and any cut of a good one, comes back as documents and never throws', async () => {
  const good = `${manifest('a', 'size: 1Gi\n  access: {allow: ["10.0.0.0/8", any]}')}---\n${manifest('b')}`
  const cut = fc.nat(good.length).map(length => good.slice(0, length))
  const wild = fc.string({ unit: fc.constantFrom(...'ab:-[]{}&*!|>"\'#%, \n\t\0') })
  await fc.assert(
    fc.asyncProperty(fc.oneof(cut, wild), async text => {
      const documents = await parse(text)
      expect(documents.length).toBeGreaterThan(0)
      for (const { content, line } of documents) {
        expect(line).toBeGreaterThan(0)
        if (content instanceof Error) expect(content).toBeInstanceOf(InvalidSpecError)
      }
    }),
    { numRuns: 300 },
  )
})
