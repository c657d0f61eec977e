import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

// Inside the checkout, so that the fixture finds vitest.
const root = `${import.meta.dirname}/..`
let folder = ''

beforeAll(() => {
  mkdirSync(`${root}/.cache`, { recursive: true })
  folder = mkdtempSync(`${root}/.cache/report-test-`)
  writeFileSync(
    `${folder}/vitest.config.ts`,
    `import { tallyReporter } from '../../hack/report.ts'
     export default { test: { include: ['*.case.ts'], reporters: [tallyReporter(
       process.env.STRICT === 'yes', process.env.LOGS ? { folder: process.env.LOGS, suite: 'case' } : undefined)] } }`,
  )
  const tests = {
    pass: `test('a', () => undefined)`,
    fail: `test('a', () => { throw new Error('wrong') })`,
    unsteady: `let tries = 0; test('a', { retry: 1 }, () => { if (tries++ === 0) throw new Error('not yet\\nfor a reason') })`,
    hopeless: `test('a', { retry: 1 }, () => { throw new Error('never') })`,
    excused: `test('a', ({ skip }) => skip('there is no qemu'))`,
    mute: `test.skip('a', () => undefined)`,
    broken: `throw new Error('does not load')`,
    hook: `test('a', () => undefined); beforeAll(() => { throw new Error('no hook') })`,
    rejection: `test('a', () => { Promise.reject(new Error('nobody waits')); return new Promise(r => setTimeout(r, 50)) })`,
  }
  for (const [name, text] of Object.entries(tests))
    writeFileSync(
      `${folder}/${name}.case.ts`,
      `import { beforeAll, test } from 'vitest'; void beforeAll; ${text}`,
    )
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

async function run(files: string[], environment: Record<string, string> = {}) {
  const logs = mkdtempSync(`${folder}/logs-`)
  const vitest = `${root}/node_modules/vitest/vitest.mjs`
  const { status, output } = await new Promise<{ status: number; output: string }>(resolve => {
    const vitestArguments = ['run', '--root', folder, ...files.map(name => `${name}.case.ts`)]
    const options = { env: { PATH: process.env.PATH, LOGS: logs, ...environment } }
    const child = execFile(process.execPath, [vitest, ...vitestArguments], options, (_, stdout) =>
      resolve({ status: child.exitCode ?? -1, output: stdout }),
    )
  })
  const read = (name: string) =>
    existsSync(`${logs}/${name}`) ? readFileSync(`${logs}/${name}`, 'utf8') : ''
  return {
    status,
    output,
    counts: read('case.counts').trim(),
    skipped: read('case.skipped'),
    failed: read('case.failed'),
    unsteady: read('case.unsteady'),
    firstTries: read('case.first-tries.log'),
  }
}

describe.concurrent('The tally of a test run', async () => {
  test('counts what passed, failed and was skipped with a reason', async () => {
    const { status, counts, skipped, failed } = await run(['pass', 'fail', 'excused'])
    expect({ status, counts }).toEqual({ status: 1, counts: '1 1 1' })
    expect(skipped).toBe('  excused.case.ts > a: there is no qemu\n')
    expect(failed).toBe('  fail.case.ts > a: wrong\n')
  })

  test('lets a run with an excused skip succeed, and prints the reason where nobody sums up', async () => {
    const { status, output } = await run(['pass', 'excused'], { LOGS: '' })
    expect(status).toBe(0)
    expect(output).toContain('excused.case.ts > a: there is no qemu')
  })

  test('takes a skip without a reason for a failure', async () => {
    expect(await run(['pass', 'mute'])).toMatchObject({ status: 1, counts: '1 1 0' })
  })

  test('takes every skip for a failure when strict', async () => {
    const { status, counts, skipped } = await run(['excused'], { STRICT: 'yes' })
    expect({ status, counts }).toEqual({ status: 1, counts: '0 1 0' })
    expect(skipped).toContain('there is no qemu (a failure')
  })

  test('tells what passed only when it was tried again', async () => {
    const { status, counts, failed, unsteady, firstTries } = await run(['pass', 'unsteady', 'hopeless'])
    expect({ status, counts }).toEqual({ status: 1, counts: '2 1 0' })
    expect(unsteady).toBe('  unsteady.case.ts > a: not yet\n')
    // Nobody could say why a thin client had ended: only the first line was kept.
    expect(firstTries).toMatch(
      /^unsteady\.case\.ts > a: Error: not yet\nfor a reason\n +at .*unsteady\.case\.ts/,
    )
    expect(failed).toBe('  hopeless.case.ts > a: never\n')
  })

  test('counts what broke outside a test', async () => {
    const broken = await run(['broken'])
    expect(broken).toMatchObject({ status: 1, counts: '0 1 0', failed: '  broken.case.ts: does not load\n' })
    const rejection = await run(['rejection'])
    expect(rejection).toMatchObject({
      status: 1,
      counts: '1 1 0',
      failed: '  Outside a test: nobody waits\n',
    })
    const { status, counts, failed } = await run(['hook'])
    expect(status).toBe(1)
    expect(counts).toMatch(/^0 [1-9] 0$/)
    expect(failed).toContain('hook.case.ts: no hook')
  })
})
