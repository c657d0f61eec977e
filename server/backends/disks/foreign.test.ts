import { execFileSync } from 'node:child_process'
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { HIDDEN_NAME } from './directory.ts'
import { cannotMount, countDescriptors, makeDirectory } from './test-directory.ts'
import { context, EXT4, MIB, setUp } from './test-setup.ts'

describe('What is in the directory, but is no disk of ours', () => {
  async function plant(path: string): Promise<string> {
    const secret = join(makeDirectory(), 'secret')
    writeFileSync(secret, 'secret')
    symlinkSync(secret, join(path, 'link'))
    symlinkSync('nowhere', join(path, 'dangling'))
    execFileSync('mkfifo', [join(path, 'fifo')])
    mkdirSync(join(path, 'directory'))
    writeFileSync(join(path, '.hidden'), 'x')
    const server = createServer().listen(join(path, 'socket'))
    await new Promise(resolve => server.on('listening', resolve))
    onTestFinished(() => {
      server.close()
    })
    return secret
  }

  test('is neither listed nor opened nor replaced', async () => {
    const { path, backend } = await setUp({ recipe: EXT4, names: 'relaxed' })
    await plant(path)
    const listing = readdirSync(path)
    const before = await countDescriptors()
    expect(await backend.listExports()).toEqual([''])
    for (const name of ['link', 'dangling', 'fifo', 'directory', 'socket']) {
      for (const readOnly of [false, true]) {
        await expect(backend.open(name, context({ readOnly }))).rejects.toMatchObject({
          name: 'NotADiskError',
          code: 'EINVAL',
        })
      }
      await expect(backend.probe(name)).rejects.toMatchObject({ code: 'EINVAL' })
    }
    for (const name of ['.hidden', '.ondemand-disk', '..', '.', 'a/b', '../x', 'a\0b', 'x'.repeat(256)]) {
      await expect(backend.open(name, context())).rejects.toMatchObject({ name: 'ExportNameError' })
    }
    expect(readdirSync(path)).toEqual(listing)
    expect(await countDescriptors()).toBe(before)
  })

  test('is not served in place of a link of ours, not even as a copy of it', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const { path, backend } = await setUp({
      recipe: { command: 'ln -s "$target" "$disk"', variables: { target } },
    })
    await backend.close(await backend.open('alice', context()))
    linkSync(join(path, 'alice'), join(path, 'bob'))
    symlinkSync(target, join(path, 'carol'))
    await expect(backend.open('bob', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    await expect(backend.open('carol', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    renameSync(join(path, 'carol'), join(path, 'alice'))
    await expect(backend.open('alice', context())).rejects.toMatchObject({ name: 'NotADiskError' })
    expect(await backend.listExports()).toEqual([''])
  })
})

describe('A link that the command made', () => {
  test('is served and listed, also after a restart, and its record goes with it', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const recipe = { command: 'ln -s "$target" "$disk"', variables: { target } }
    const { path, backend, directory } = await setUp({ recipe })
    const disk = await backend.open('alice', context())
    expect(disk.size).toBe(6)
    await backend.close(disk)
    await directory.close()

    const later = await setUp({ path, recipe: { command: 'false' } })
    expect(await later.backend.listExports()).toEqual(['', 'alice'])
    expect(await later.backend.probe('alice')).toEqual({ size: 6 })
    await later.backend.close(await later.backend.open('alice', context()))
    expect(existsSync(join(path, HIDDEN_NAME, 'links', 'alice'))).toBe(true)
    rmSync(join(path, 'alice'))
    await later.directory.close()
    await setUp({ path })
    expect(existsSync(join(path, HIDDEN_NAME, 'links', 'alice'))).toBe(false)
  })

  test('is an error when its target has gone, and never replaced', async () => {
    const target = join(makeDirectory(), 'target')
    writeFileSync(target, 'target')
    const { path, backend } = await setUp({
      recipe: { command: 'ln -s "$target" "$disk"', variables: { target } },
    })
    await backend.close(await backend.open('alice', context()))
    rmSync(target)
    await expect(backend.open('alice', context())).rejects.toThrow(/what its link points to is gone/)
    expect(lstatSync(join(path, 'alice')).isSymbolicLink()).toBe(true)
  })

  test.for(['ln -s "$loop" "$disk"', 'cp -a "$loop" "$disk"'])(
    'or a block device, by %s, is served with its size',
    async (command, { skip }) => {
      skip(cannotMount !== undefined, cannotMount)
      const backing = join(makeDirectory(), 'backing')
      truncateSync(writeNew(backing), 3 * MIB)
      const loop = execFileSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' }).trim()
      onTestFinished(() => {
        execFileSync('losetup', ['-d', loop])
      })
      const { path, backend } = await setUp({ recipe: { command, variables: { loop } } })
      const disk = await backend.open('alice', context())
      expect(disk).toMatchObject({ size: 3 * MIB, blockDevice: true })
      await backend.close(disk)
      expect(await backend.listExports()).toEqual(['', 'alice'])
      // A device that somebody planted is not served.
      execFileSync('cp', ['-a', loop, join(path, 'planted')])
      await expect(backend.open('planted', context())).rejects.toThrow(/block device that no --command/)
    },
  )
})

function writeNew(path: string): string {
  writeFileSync(path, '')
  return path
}
