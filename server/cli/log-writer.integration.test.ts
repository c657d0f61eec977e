import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { createLogWriter, MAX_BACKLOG } from './log-writer.ts'

const MODULE = pathToFileURL(`${import.meta.dirname}/log-writer.ts`).href

/** Runs code with `writer` on its standard error; what it prints on standard output is for the test. */
function start(code: string) {
  const program = `
    import { createLogWriter } from '${MODULE}'
    const writer = createLogWriter(2, lines => {
      process.stdout.write('lost ' + lines + '\\n')
      writer.write('lost ' + lines + '\\n')
    })
    ${code}`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', text => {
    output.stdout += text
  })
  const readErrors = (): void => {
    child.stderr.setEncoding('utf8').on('data', text => {
      output.stderr += text
    })
  }
  return { child, output, readErrors }
}

const numbers = (count: number): string => Array.from({ length: count }, (_, n) => `${n}\n`).join('')

describe('when the process ends', () => {
  test.each([
    ['by itself', ''],
    ['by process.exit', 'process.exit()'],
    [
      'by an uncaught exception',
      "process.on('uncaughtException', () => process.exit(0)); throw new Error('x')",
    ],
  ])('%s, nothing is lost', async (_, ending) => {
    const { child, output, readErrors } = start(`
      for (let n = 0; n < 3000; n++) writer.write(n + '\\n')
      ${ending}`)
    readErrors()
    const [code] = await once(child, 'close')
    expect(code).toBe(0)
    const lines = output.stderr.split('\n').slice(0, -1)
    expect(lines.map(Number).sort((a, b) => a - b)).toEqual(Array.from({ length: 3000 }, (_, n) => n))
  })

  test('a log that cannot be written does not hold it', async () => {
    const { child } = start(`
      import { openSync } from 'node:fs'
      const full = createLogWriter(openSync('/dev/full', 'w'), () => {})
      for (let n = 0; n < 100; n++) full.write(n + '\\n')
      process.exit(0)`)
    expect(await once(child, 'exit')).toEqual([0, null])
  })
})

test('a reader that has gone does not end the process', async () => {
  const { child, output } = start(`
    await new Promise(resolve => setTimeout(resolve, 300))
    for (let n = 0; n < 10; n++) {
      writer.write(n + '\\n')
      await new Promise(resolve => setTimeout(resolve, 5))
    }
    console.log('alive')`)
  child.stderr.destroy()
  expect(await once(child, 'close')).toEqual([0, null])
  expect(output.stdout).toBe('alive\n')
})

test('a slow reader neither stalls the process nor grows it, and is told what it missed', async () => {
  const { child, output, readErrors } = start(`
    const line = 'x'.repeat(1023) + '\\n'
    for (let n = 0; n < 4096; n++) writer.write(line)
    console.log('alive')`)
  await expect.poll(() => output.stdout).toContain('alive')
  readErrors()
  await once(child, 'close')
  const lines = output.stderr.split('\n').slice(0, -1)
  const kept = lines.filter(line => line.startsWith('x'))
  const lost = lines.filter(line => line.startsWith('lost ')).map(line => Number(line.slice(5)))
  expect(lost.length).toBeGreaterThan(0)
  expect(kept.length + lost.reduce((sum, count) => sum + count, 0)).toBe(4096)
  expect(kept.length * 1024).toBeLessThan(2 * MAX_BACKLOG + 1024 * 1024)
})

test('a full disk loses lines, says nothing while it is full, and throws nothing', async () => {
  const full = openSync('/dev/full', 'w')
  let told = 0
  const writer = createLogWriter(full, () => {
    told++
  })
  for (let n = 0; n < 20; n++) {
    writer.write(numbers(10))
    await delay(2)
  }
  await delay(20)
  expect(told).toBe(0)
  closeSync(full)
})

test('no listener of the process is left behind', async () => {
  const before = process.listenerCount('exit')
  const sink = openSync('/dev/null', 'w')
  for (let n = 0; n < 20; n++) createLogWriter(sink, () => undefined).write('x\n')
  await expect.poll(() => process.listenerCount('exit')).toBe(before)
  closeSync(sink)
})
