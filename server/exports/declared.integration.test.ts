/** Declared disks on a directory of real files, with real mkfs programs. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { InvalidSpecError, parseOnDemandDisk } from '../../crds/ondemanddisk.ts'
import type { LayeredBackend } from '../backends/backend.ts'
import { HIDDEN_NAME, openDiskDirectory } from '../backends/disks/directory.ts'
import { createDisksBackend } from '../backends/disks/disks.ts'
import { prepareRecipe } from '../backends/disks/recipe.ts'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import { fillIn } from '../backends/layer.ts'
import { createMemoryBackend } from '../backends/memory/memory.ts'
import { openTemporaryArea } from '../backends/temporary/temporary.ts'
import type { DeclaredDisks } from './catalog.ts'
import { createDeclaredDisks } from './declared.ts'
import { MARKS_NAME, openDeclaredFiles, withoutDeclared } from './declared-files.ts'
import type { ManifestState } from './manifest-set.ts'

const MIB = 2 ** 20

/** Spec and, where it matters, uid of a disk, by its name. */
type Wanted = Readonly<Record<string, { uid?: string; invalid?: string; [field: string]: unknown }>>

const BLANK = { command: 'truncate -s "$size" "$disk"', size: MIB }

function stateOf(wanted: Wanted, refused: Readonly<Record<string, string>> = {}): ManifestState {
  const disks = Object.entries(wanted).map(([name, { uid, invalid, ...spec }]) => {
    const disk = parseOnDemandDisk({
      apiVersion: 'ondemanddisk.dev/v1alpha1',
      kind: 'OnDemandDisk',
      metadata: { name, ...(uid !== undefined && { uid }) },
      spec,
    })
    const error = invalid === undefined ? {} : { invalid: new InvalidSpecError('spec', invalid) }
    return [disk.spec.exportName, { disk, file: `${name}.yaml`, ...error }] as const
  })
  const errors = Object.entries(refused).map(
    ([name, reason]) => [name, new InvalidSpecError('spec', reason)] as const,
  )
  return { disks: new Map(disks), refused: new Map(errors), problems: [] }
}

interface Options {
  readonly path?: string
  readonly create?: boolean
  readonly readOnly?: boolean
  readonly tls?: boolean
  readonly commandTimeoutMs?: number
}

async function declare(options: Options = {}) {
  const {
    path = makeDirectory(),
    create = true,
    readOnly = false,
    tls = false,
    commandTimeoutMs = 20_000,
  } = options
  const directory = await openDiskDirectory({ path, create })
  const files = await openDeclaredFiles(directory)
  const log: { message: string; fields: Readonly<Record<string, unknown>> }[] = []
  const take = (fields: Readonly<Record<string, unknown>>, message: string) => log.push({ message, fields })
  const area = openTemporaryArea(join(path, HIDDEN_NAME))
  const openArea = () => area
  const disks = createDeclaredDisks({
    ...{ directory, files, openArea, readOnly, commandTimeoutMs, tls },
    forward: (_, uri) => {
      if (!uri.startsWith('nbd://')) throw new Error(`${uri} is not for us.`)
      return createMemoryBackend({ size: 4096 }) as never
    },
    log: { error: take, info: take },
  })
  let closed = false
  const close = async () => {
    if (closed) return
    closed = true
    await disks.close()
    await (await area).close()
    await directory.close()
  }
  onTestFinished(close)
  const recipe = await prepareRecipe({ command: BLANK.command })
  const onDemand = createDisksBackend({ directory, recipe, size: MIB })
  const others = withoutDeclared(fillIn(onDemand as never, { readOnly: false, onProblem: () => {} }), files)
  return {
    ...{ path, directory, files, disks, log, close, others },
    /** Makes this the state, and waits until all is done. */
    async become(...state: Parameters<typeof stateOf>) {
      disks.update(stateOf(...state))
      await disks.ready()
      await disks.settled()
    },
    fileSize: (name: string) => statSync(join(path, name)).size,
    names: () =>
      readdirSync(path)
        .filter(name => name !== HIDDEN_NAME)
        .sort(),
  }
}

const CLIENT = { readOnly: false, client: 'test', signal: new AbortController().signal }

/** Opens a declared disk as a client does. */
async function open(disks: DeclaredDisks, name: string) {
  const problem = disks.problem(name)
  if (problem !== undefined) throw new Error(problem)
  const served = disks.find(name)
  if (served === undefined) throw new Error('not declared')
  const { backend } = served
  const handle = await backend.open(name, { ...CLIENT, readOnly: served.readOnly })
  return { size: backend.getSize(handle), close: () => backend.close(handle) }
}

const openOther = async (backend: LayeredBackend, name: string) =>
  backend.close(await backend.open(name, CLIENT))

const e2fsck = (path: string) => execFileSync('e2fsck', ['-fn', path], { stdio: 'pipe' }).toString()

/** Bytes of the ext filesystem in a file, by dumpe2fs. */
function filesystemSize(path: string): number {
  const text = execFileSync('dumpe2fs', ['-h', path], { stdio: ['ignore', 'pipe', 'ignore'] }).toString()
  const field = (name: string) => Number(new RegExp(`^${name}: +(\\d+)$`, 'm').exec(text)?.[1])
  return field('Block count') * field('Block size')
}

describe('A declared disk', () => {
  test('is waited for by whoever asks for it in the moment of its declaration', async () => {
    const { disks } = await declare()
    disks.update(stateOf({ soon: BLANK }))
    expect(disks.problem('soon')).toMatch(/being prepared/)
    await disks.prepared('soon')
    expect(disks.problem('soon')).toBeUndefined()
    expect(disks.prepared('soon')).toBeUndefined()
    expect(disks.prepared('never')).toBeUndefined()
  })

  test('is made with its filesystem, label and options', async () => {
    const { become, path, disks } = await declare()
    await become({
      alice: { size: 8 * MIB, filesystem: { type: 'ext4', label: 'hers', mkfsOptions: ['-m', '0'] } },
    })
    expect(execFileSync('blkid', ['-p', join(path, 'alice')]).toString()).toMatch(/LABEL="hers".*TYPE="ext4"/)
    e2fsck(join(path, 'alice'))
    expect(disks.names()).toEqual(['alice'])
    const opened = await open(disks, 'alice')
    expect(opened.size).toBe(8 * MIB)
    await opened.close()
  })

  test('is made by its command with its variables', async () => {
    const { become, path } = await declare()
    const command = 'printf "%s" "$greeting" >"$disk"; truncate -s "$size" "$disk"'
    await become({ alice: { size: 4096, command, variables: { greeting: "it's" } } })
    expect(execFileSync('head', ['-c', '4', join(path, 'alice')]).toString()).toBe("it's")
  })

  test('has the terms of its spec', async () => {
    const { become, disks } = await declare()
    const access = { allow: ['10.0.0.0/8'], deny: ['10.0.0.1'], connections: 3 }
    await become({ alice: { ...BLANK, readOnly: true, access, limits: { iops: 7 } } })
    const served = disks.find('alice')
    expect(served).toMatchObject({
      name: 'alice',
      readOnly: true,
      temporary: false,
      connections: 3,
      limits: { iops: 7 },
    })
    expect(served?.access?.allow[0]?.text).toBe('10.0.0.0/8')
    await become({ alice: { ...BLANK, access: { deny: ['any'] } } })
    expect(disks.find('alice')).toMatchObject({ readOnly: false, connections: 1, limits: {} })
    expect(disks.find('alice')?.backend).toBe(served?.backend)
  })

  test('that is temporary has no file', async () => {
    const { become, disks, names } = await declare()
    await become({ scratch: { ...BLANK, mode: 'Temporary' } })
    const opened = await open(disks, 'scratch')
    expect(opened.size).toBe(MIB)
    expect(names()).toEqual([])
    await opened.close()
  })

  test('of an upstream is what that has, and has no file', async () => {
    const { become, disks, names } = await declare()
    const upstream = { uri: 'nbd://localhost/x' }
    await become({ far: { upstream, access: { deny: ['10.0.0.1'] } } })
    expect(disks.find('far')).toMatchObject({ unlocked: true, temporary: false })
    const opened = await open(disks, 'far')
    expect(opened.size).toBe(4096)
    await opened.close()
    const before = disks.find('far')?.backend
    await become({ far: { upstream } })
    expect(disks.find('far')?.backend).toBe(before)
    await become({ far: { upstream: { uri: 'nbd://localhost/y' } } })
    expect(disks.find('far')?.backend).not.toBe(before)
    expect(names()).toEqual([])
  })

  test('with a uid is the file of that name', async () => {
    const { become, names, disks } = await declare()
    await become({ alice: { ...BLANK, uid: '0b5f3c5e-7f0c' } })
    expect(names()).toEqual(['0b5f3c5e-7f0c'])
    await (await open(disks, 'alice')).close()
  })

  test('that exists is found again, and not formatted again', async () => {
    const path = makeDirectory()
    const first = await declare({ path })
    await first.become({ alice: { size: 8 * MIB }, bob: { ...BLANK, uid: 'b' } })
    const inode = statSync(join(path, 'alice')).ino
    await first.close()
    writeFileSync(join(path, 'alice'), 'hello', { flag: 'r+' })
    const second = await declare({ path })
    await second.become({ alice: { size: 8 * MIB }, bob: { ...BLANK, uid: 'b' } })
    expect(second.names()).toEqual(['alice', 'b'])
    expect(statSync(join(path, 'alice')).ino).toBe(inode)
    expect(execFileSync('head', ['-c', '5', join(path, 'alice')]).toString()).toBe('hello')
    expect(second.log).toEqual([])
  })

  test('that is deleted leaves its file, and comes back with it', async () => {
    const { become, disks, names } = await declare()
    await become({ alice: BLANK, bob: BLANK })
    await become({ bob: BLANK })
    expect(disks.names()).toEqual(['bob'])
    expect(disks.find('alice')).toBeUndefined()
    expect(names()).toEqual(['alice', 'bob'])
    await become({ alice: BLANK, bob: BLANK })
    await (await open(disks, 'alice')).close()
  })

  test('that is another object under the same name is another disk', async () => {
    const { become, disks, names } = await declare()
    await become({ alice: { ...BLANK, uid: 'one' } })
    const before = disks.find('alice')?.backend
    await become({ alice: { ...BLANK, uid: 'two' } })
    expect(disks.find('alice')?.backend).not.toBe(before)
    expect(names()).toEqual(['one', 'two'])
  })

  test('is made again by the next client when its file was deleted', async () => {
    const { become, disks, path } = await declare()
    await become({ alice: BLANK })
    rmSync(join(path, 'alice'))
    await (await open(disks, 'alice')).close()
    expect(existsSync(join(path, 'alice'))).toBe(true)
  })
})

describe('A declared disk that cannot be had', () => {
  test.for<[string, Wanted[string], RegExp]>([
    [
      'a filesystem that the machine lacks',
      { size: MIB, filesystem: { type: 'nosuchfs' } },
      /^spec\.filesystem\.type: There is no program mkfs\.nosuchfs/,
    ],
    [
      'a rule that needs TLS where there is none',
      { ...BLANK, access: { allow: ['dn:CN=a'] } },
      /^spec\.access\.allow\[0\]: dn:CN=a needs TLS/,
    ],
    [
      'an upstream that cannot be forwarded to',
      { upstream: { uri: 'nbds://localhost/x' } },
      /^nbds:\/\/localhost\/x is not for us/,
    ],
  ])('for %s is refused with the reason, and disturbs no other', async ([, spec, reason]) => {
    const { become, disks, names, log } = await declare()
    await become({ bad: spec, good: BLANK })
    await become({ bad: spec, good: { ...BLANK, readOnly: true } })
    expect(disks.problem('bad')).toMatch(reason)
    expect(log.filter(({ fields }) => fields.export === 'bad')).toEqual([
      {
        message: 'Declared disk is not ready',
        fields: { export: 'bad', reason: expect.stringMatching(reason) },
      },
    ])
    expect(disks.names()).toEqual(['good'])
    expect(names()).toEqual(['good'])
    await (await open(disks, 'good')).close()
  })

  test('is served once its manifest is right', async () => {
    const { become, disks } = await declare()
    await become({ alice: { ...BLANK, access: { allow: ['dn:CN=a'] } } })
    await become({ alice: BLANK })
    await (await open(disks, 'alice')).close()
  })

  test('for a manifest that is bad now is refused to new clients; those who have it keep it', async () => {
    const { become, disks } = await declare()
    await become({ alice: BLANK })
    const before = disks.find('alice')?.backend
    await become({ alice: { ...BLANK, invalid: 'Not so.' } })
    expect(disks.problem('alice')).toMatch(/Not so/)
    expect(disks.names()).toEqual([])
    expect(disks.find('alice')?.backend).toBe(before)
    await become({ alice: BLANK })
    expect(disks.problem('alice')).toBeUndefined()
    expect(disks.find('alice')?.backend).toBe(before)
  })

  test('for a manifest that was never good is refused with the reason', async () => {
    const { become, disks } = await declare()
    await become({}, { alice: 'No size.' })
    expect(disks.problem('alice')).toMatch(/No size/)
    expect(disks.find('alice')).toBeUndefined()
  })

  test('since its file is larger than it may be is refused, and kept', async () => {
    const path = makeDirectory()
    writeFileSync(join(path, 'alice'), '')
    truncateSync(join(path, 'alice'), 4 * MIB)
    const { become, disks, fileSize, log } = await declare({ path })
    await become({ alice: { size: 2 * MIB }, good: BLANK })
    expect(disks.problem('alice')).toMatch(/has 4 MiB already and cannot shrink/)
    expect(fileSize('alice')).toBe(4 * MIB)
    expect(log.find(({ message }) => message === 'Declared disk is not ready')?.fields.export).toBe('alice')
    expect(disks.names()).toEqual(['good'])
    await become({ alice: { size: 4 * MIB }, good: BLANK })
    await (await open(disks, 'alice')).close()
  })

  test('since mkfs fails leaves nothing, and the next client tries again', async () => {
    const { become, disks, path, names, log } = await declare()
    const command = `test -e '${path}/.allowed' || { echo 'not yet' >&2; exit 3; }; truncate -s 4096 "$disk"`
    await become({ alice: { size: MIB, command } })
    expect(log.map(({ fields }) => fields.reason)).toEqual([expect.stringContaining('not yet')])
    expect(names()).toEqual([])
    await expect(open(disks, 'alice')).rejects.toThrow('not yet')
    writeFileSync(join(path, '.allowed'), '')
    expect((await open(disks, 'alice')).size).toBe(4096)
  })

  test('but exists is served without the mkfs that the machine lacks', async () => {
    const path = makeDirectory()
    writeFileSync(join(path, 'alice'), Buffer.alloc(MIB))
    const { become, disks } = await declare({ path })
    await become({ alice: { size: MIB, filesystem: { type: 'nosuchfs' } } })
    expect((await open(disks, 'alice')).size).toBe(MIB)
    rmSync(join(path, 'alice'))
    await expect(open(disks, 'alice')).rejects.toThrow(
      /spec\.filesystem\.type: There is no program mkfs\.nosuchfs/,
    )
  })

  test('since another has its uid is refused, and the other is not disturbed', async () => {
    const { become, disks } = await declare()
    await become({ alice: { ...BLANK, uid: 'same' }, bob: { ...BLANK, uid: 'same' } })
    await (await open(disks, 'alice')).close()
    expect(disks.problem('bob')).toMatch(/^metadata\.uid: Another disk has the same/)
    await become({ bob: { ...BLANK, uid: 'same' } })
    await (await open(disks, 'bob')).close()
  })
})

describe('A command that hangs', () => {
  const HANGING = { size: MIB, command: 'echo $$ >"$disk.pid"; sleep 1000' }
  const pidFile = (path: string) =>
    readdirSync(path, { recursive: true, encoding: 'utf8' }).find(name => name.endsWith('disk.pid'))

  test('keeps no other disk from being made', async () => {
    const { disks, path } = await declare()
    disks.update(stateOf({ bad: HANGING, good: BLANK }))
    await disks.ready()
    await vi.waitFor(() => expect(existsSync(join(path, 'good'))).toBe(true))
    await (await open(disks, 'good')).close()
  })

  test('ends when its time is over', async () => {
    const { become, log } = await declare({ commandTimeoutMs: 300 })
    await become({ bad: HANGING })
    expect(log[0]?.fields.reason).toMatch(/was killed: not done after 0\.3 s/)
  })

  test.for<[string, Wanted]>([
    ['changed', { bad: BLANK }],
    ['deleted', {}],
  ])('ends when its manifest is %s', async ([, next]) => {
    const { disks, path, names } = await declare()
    disks.update(stateOf({ bad: HANGING }))
    await vi.waitFor(() => expect(pidFile(path)).toBeDefined())
    const waiting = open(disks, 'bad').catch((error: Error) => error.message)
    await disks.ready()
    await sleep(50)
    disks.update(stateOf(next))
    await disks.ready()
    await disks.settled()
    expect(await waiting).toMatch(/called off|being prepared/)
    expect(names()).toEqual(Object.keys(next))
    await vi.waitFor(() => expect(pidFile(path)).toBeUndefined())
  })
})

describe('Growing', () => {
  test('grows the file and its ext4 filesystem when nobody has it open', async () => {
    const { become, path, fileSize, log } = await declare()
    await become({ alice: { size: 16 * MIB } })
    await become({ alice: { size: 64 * MIB } })
    expect(fileSize('alice')).toBe(64 * MIB)
    expect(filesystemSize(join(path, 'alice'))).toBe(64 * MIB)
    e2fsck(join(path, 'alice'))
    expect(log.at(-1)).toEqual({
      message: 'Disk grown',
      fields: { export: 'alice', size: 64 * MIB, filesystem: true },
    })
  })

  test('happens at the start, too', async () => {
    const path = makeDirectory()
    const first = await declare({ path })
    await first.become({ alice: { size: 16 * MIB } })
    await first.close()
    const second = await declare({ path })
    await second.become({ alice: { size: 32 * MIB } })
    expect(filesystemSize(join(path, 'alice'))).toBe(32 * MIB)
  })

  test('grows the file alone while a client has it open, who keeps what it has', async () => {
    const { become, disks, path, fileSize, log } = await declare()
    await become({ alice: { size: 16 * MIB } })
    const client = await open(disks, 'alice')
    await become({ alice: { size: 32 * MIB } })
    expect(fileSize('alice')).toBe(32 * MIB)
    expect(filesystemSize(join(path, 'alice'))).toBe(16 * MIB)
    expect(log.at(-1)?.fields).toMatchObject({ filesystem: false })
    expect(client.size).toBe(16 * MIB)
    expect(disks.report('alice')?.filesystemBehind).toBe(true)
    await client.close()
    expect((await open(disks, 'alice')).size).toBe(32 * MIB)
    expect(filesystemSize(join(path, 'alice'))).toBe(32 * MIB)
    expect(disks.report('alice')?.filesystemBehind).toBe(false)
  })

  test('goes on where a server died between the file and its filesystem', async () => {
    const path = makeDirectory()
    const first = await declare({ path })
    await first.become({ alice: { size: 16 * MIB } })
    await first.close()
    truncateSync(join(path, 'alice'), 64 * MIB)
    const second = await declare({ path })
    await second.become({ alice: { size: 64 * MIB } })
    expect(filesystemSize(join(path, 'alice'))).toBe(64 * MIB)
  })

  test('grows no filesystem but ext', async () => {
    const { become, fileSize, log } = await declare()
    await become({ alice: { size: 16 * MIB, filesystem: { type: 'vfat' } } })
    await become({ alice: { size: 32 * MIB, filesystem: { type: 'vfat' } } })
    expect(fileSize('alice')).toBe(32 * MIB)
    expect(log.at(-1)?.fields).toMatchObject({ filesystem: false })
  })

  test('keeps clients waiting, not out', async () => {
    const { become, disks } = await declare()
    await become({ alice: { size: 16 * MIB } })
    disks.update(stateOf({ alice: { size: 512 * MIB } }))
    await disks.ready()
    for (let count = 0; count < 20; count++) {
      const client = await open(disks, 'alice')
      await client.close()
    }
    await disks.settled()
    expect((await open(disks, 'alice')).size).toBe(512 * MIB)
  })

  test('says why a filesystem cannot be grown, and serves it all the same', async () => {
    const { become, disks, path, log } = await declare()
    await become({ alice: { size: 16 * MIB } })
    writeFileSync(join(path, 'alice'), Buffer.alloc(MIB, 0x55), { flag: 'r+' })
    await become({ alice: { size: 32 * MIB } })
    expect(log.at(-1)?.fields.reason).toMatch(/^e2fsck failed: /)
    expect((await open(disks, 'alice')).size).toBe(32 * MIB)
  })

  test('does not happen on a server where nobody may write, nor to what a command has made', async () => {
    const path = makeDirectory()
    for (const name of ['alice', 'bob']) writeFileSync(join(path, name), Buffer.alloc(4096))
    const readOnly = await declare({ path, readOnly: true })
    await readOnly.become({ alice: { size: MIB } })
    expect(readOnly.fileSize('alice')).toBe(4096)
    expect((await open(readOnly.disks, 'alice')).size).toBe(4096)
    await readOnly.close()
    const writable = await declare({ path })
    await writable.become({ bob: { size: MIB, command: 'false' } })
    expect(writable.fileSize('bob')).toBe(4096)
  })

  test('of many disks at once opens a few at a time', async () => {
    const path = makeDirectory()
    const names = Array.from({ length: 300 }, (_, index) => `disk-${index}`)
    for (const name of names) writeFileSync(join(path, name), '')
    const { become, disks } = await declare({ path })
    const spec = { size: 4096, filesystem: { type: 'vfat' } }
    await become(Object.fromEntries(names.map(name => [name, spec])))
    expect(disks.names()).toHaveLength(300)
    expect(names.every(name => statSync(join(path, name)).size === 4096)).toBe(true)
  })
})

describe('The file of a declared disk', () => {
  const refusedTo = (backend: LayeredBackend, name: string) =>
    openOther(backend, name).then(
      () => 'served',
      (error: Error) => error.message,
    )

  test("is not served on the server's own terms, nor listed", async () => {
    const { become, others } = await declare()
    await become({ alice: BLANK, bob: { ...BLANK, uid: 'b' }, default: BLANK })
    await openOther(others, 'carol')
    for (const name of ['alice', 'b', 'default'])
      expect(await refusedTo(others, name)).toMatch(/no disk named/)
    await expect(others.probe('b')).rejects.toThrow(/no disk named/)
    expect(await others.listExports()).toEqual(['carol'])
  })

  test('is not served so either when its manifest is gone', async () => {
    const { become, others } = await declare()
    await become({ alice: BLANK, bob: { ...BLANK, uid: 'b' } })
    await become({})
    for (const name of ['alice', 'b']) expect(await refusedTo(others, name)).toMatch(/not declared any more/)
    expect(await others.listExports()).toEqual([''])
  })

  test('is remembered by the next server, also by one that knows no manifests', async () => {
    const path = makeDirectory()
    const first = await declare({ path })
    await first.become({ alice: BLANK, bob: { ...BLANK, uid: 'b' } })
    await first.close()
    const second = await declare({ path })
    for (const name of ['alice', 'b'])
      expect(await refusedTo(second.others, name)).toMatch(/not declared any more/)
    await second.close()
    const third = await declare({ path, create: false })
    expect(await refusedTo(third.others, 'alice')).toMatch(/not declared any more/)
    expect(await third.others.listExports()).toEqual([])
  })

  test('was marked before it was made', async () => {
    const { become, path } = await declare()
    const marks = join(path, HIDDEN_NAME, MARKS_NAME)
    await become({ alice: { size: 4096, command: `ls '${marks}' >"$disk"` } })
    expect(execFileSync('cat', [join(path, 'alice')]).toString()).toBe('alice\n')
  })

  test('frees its name when it is deleted or renamed', async () => {
    const { become, others, path } = await declare()
    await become({ alice: BLANK, bob: BLANK })
    await become({})
    rmSync(join(path, 'alice'))
    renameSync(join(path, 'bob'), join(path, 'bert'))
    for (const name of ['alice', 'bob', 'bert']) expect(await refusedTo(others, name)).toBe('served')
    expect(readdirSync(join(path, HIDDEN_NAME, MARKS_NAME))).toEqual([])
  })

  test('loses its mark at the start when it is gone', async () => {
    const path = makeDirectory()
    const first = await declare({ path })
    await first.become({ alice: BLANK, bob: BLANK })
    await first.close()
    rmSync(join(path, 'alice'))
    await declare({ path })
    expect(readdirSync(join(path, HIDDEN_NAME, MARKS_NAME))).toEqual(['bob'])
  })

  test('that was made on demand belongs to the manifest that names it', async () => {
    const { become, others, disks } = await declare()
    await openOther(others, 'alice')
    await become({ alice: BLANK })
    await (await open(disks, 'alice')).close()
    expect(await refusedTo(others, 'alice')).toMatch(/no disk named/)
  })

  test("of a temporary disk is nobody's", async () => {
    const { become, others } = await declare()
    await become({ scratch: { ...BLANK, mode: 'Temporary' } })
    await become({})
    expect(await refusedTo(others, 'scratch')).toBe('served')
  })
})
