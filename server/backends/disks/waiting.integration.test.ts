import { existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import type { Recipe } from './recipe.ts'
import { countDescriptors, makeDirectory, openFilesIn } from './test-directory.ts'
import { contents, context, EMPTY, MIB, setUp } from './test-setup.ts'

describe('The wait for a disk', () => {
  const slowly = (gate: string): Recipe => ({
    command: 'echo >> "$gate.count"; until [ -e "$gate" ]; do sleep 0.02; done; truncate -s 1M "$disk"',
    variables: { gate },
  })
  const begun = (gate: string) => vi.waitFor(() => expect(existsSync(`${gate}.count`)).toBe(true))
  const count = (gate: string) => statSync(`${gate}.count`).size

  test('ends for a client that has gone, and goes on for the others', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { backend } = await setUp({ recipe: slowly(gate) })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    const second = backend.open('alice', context())
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ name: 'CreationAbortedError', code: 'ECANCELED' })
    writeFileSync(gate, '')
    expect((await second).size).toBe(MIB)
    expect(count(gate)).toBe(1)
  })

  test('is not in vain if all have gone: who comes back joins it', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { path, backend } = await setUp({ recipe: slowly(gate) })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ code: 'ECANCELED' })
    const again = backend.open('alice', context())
    writeFileSync(gate, '')
    expect((await again).size).toBe(MIB)
    expect(count(gate)).toBe(1)
    expect(openFilesIn(path)).toHaveLength(2)
  })

  test('is dropped from the queue if all have gone, and begins anew for whoever comes back', async () => {
    const gate = join(makeDirectory(), 'gate')
    const { path, backend, problems } = await setUp({ recipe: slowly(gate), maxAtOnce: 1 })
    const blocker = backend.open('blocker', context())
    await begun(gate)
    const controller = new AbortController()
    const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
    const queued = names.map(name => backend.open(name, context({ signal: controller.signal })))
    const dropped = backend.open('dropped', context({ signal: controller.signal }))
    await new Promise(resolve => setTimeout(resolve, 20))
    controller.abort()
    // At any moment while the old wait is being taken down.
    const again = names.map(async (name, ticks) => {
      for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
      return await backend.open(name, context())
    })
    for (const wait of [...queued, dropped]) await expect(wait).rejects.toMatchObject({ code: 'ECANCELED' })
    writeFileSync(gate, '')
    expect((await Promise.all(again)).map(disk => disk.size)).toEqual(names.map(() => MIB))
    await blocker
    expect(contents(path)).toEqual({ disks: [...names, 'blocker'].toSorted(), inUse: [] })
    expect(problems).toEqual([])
  })

  test('lasts until the name is durable, also for who comes when the name is there', async () => {
    let release = () => {}
    const durable = new Promise<void>(resolve => {
      release = resolve
    })
    const onStep = async (step: string) => {
      if (step === 'published') await durable
    }
    const { path, backend } = await setUp({ onStep })
    const first = backend.open('alice', context())
    await vi.waitFor(() => expect(existsSync(join(path, 'alice'))).toBe(true))
    const served = vi.fn()
    const second = backend.open('alice', context()).then(served)
    await new Promise(resolve => setTimeout(resolve, 50))
    expect(served).not.toHaveBeenCalled()
    release()
    await Promise.all([first, second])
  })

  test('ends when the server stops, with the command, and leaves nothing', async () => {
    const gate = join(makeDirectory(), 'gate')
    const before = await countDescriptors()
    const { path, backend, directory, problems } = await setUp({ recipe: slowly(gate) })
    const waiting = backend.open('alice', context())
    const outcome = expect(waiting).rejects.toMatchObject({ code: 'ECANCELED' })
    await begun(gate)
    await directory.close()
    await outcome
    expect(contents(path)).toEqual(EMPTY)
    expect(problems).toEqual([])
    await expect(backend.open('bob', context())).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await countDescriptors()).toBe(before)
  })

  test('does not begin for a client that has gone before', async () => {
    const { path, backend } = await setUp()
    await expect(backend.open('alice', context({ signal: AbortSignal.abort() }))).rejects.toMatchObject({
      code: 'ECANCELED',
    })
    expect(contents(path)).toEqual(EMPTY)
  })

  test('that nobody waited for to fail is reported as a problem', async () => {
    const gate = join(makeDirectory(), 'gate')
    const recipe = {
      command: 'echo > "$gate.count"; until [ -e "$gate" ]; do sleep 0.02; done; false',
      variables: { gate },
    }
    const { backend, problems } = await setUp({ recipe })
    const controller = new AbortController()
    const first = backend.open('alice', context({ signal: controller.signal }))
    await begun(gate)
    controller.abort()
    await expect(first).rejects.toMatchObject({ code: 'ECANCELED' })
    writeFileSync(gate, '')
    await vi.waitFor(() => expect(problems).toMatchObject([{ name: 'CreationError' }]))
  })
})
