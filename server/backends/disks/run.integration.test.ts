import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, onTestFinished, test, vi } from 'vitest'
import { prepareRecipe } from './recipe.ts'
import { reasonOf, runProgram } from './run.ts'
import { countDescriptors, makeDirectory } from './test-directory.ts'

const never = new AbortController().signal

async function runCommand(command: string, options: { timeoutMs?: number; signal?: AbortSignal } = {}) {
  const directory = makeDirectory()
  const recipe = await prepareRecipe({ command })
  const { timeoutMs = 9000, signal = never } = options
  const done = runProgram(recipe.argv(join(directory, 'disk'), 1), {
    name: recipe.program,
    directory,
    timeoutMs,
    signal,
  })
  // Awaited by the caller, with whatever it expects.
  done.catch(() => {})
  return { directory, done }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

async function readPids(path: string): Promise<number[]> {
  return await vi.waitFor(() => {
    const pids = readFileSync(path, 'utf8').trim().split('\n').map(Number)
    expect(pids.length).toBe(2)
    return pids
  })
}

/** Two children, one of which has closed its stderr, deaf to all signals that can be ignored. */
const FAMILY = `trap '' TERM INT HUP
  sleep 60 2>&- & echo $! > "$disk.pids"; (trap '' TERM; sleep 61) & echo $! >> "$disk.pids"; `

test('A command that succeeds says nothing, whatever it prints', async () => {
  const { done } = await runCommand('echo out; echo err >&2; test ! -t 0; cat; test "$LC_ALL" = C')
  await done
})

test('stdin is /dev/null, and so is stdout', async () => {
  const { done, directory } = await runCommand(
    'seen=$(readlink /proc/$$/fd/0 /proc/$$/fd/1); echo "$seen" > seen',
  )
  await done
  expect(readFileSync(join(directory, 'seen'), 'utf8')).toBe('/dev/null\n/dev/null\n')
})

test.for<[string, string, string, string]>([
  ['its last line', 'echo first >&2; echo "the reason" >&2; exit 3', 'EIO', 'The command failed: the reason'],
  ['its exit code if it said nothing', 'exit 3', 'EIO', 'The command failed: exit code 3'],
  ['the signal that killed it', 'kill -9 $$', 'EIO', 'The command failed: killed by SIGKILL'],
  [
    'that the space ran out',
    'echo "cp: No space left on device" >&2; exit 1',
    'ENOSPC',
    'No space left on device',
  ],
  ['no path of the server', 'echo "bad $disk" >&2; exit 1', 'EIO', 'The command failed: bad $disk'],
])('A command that fails is reported with %s', async ([, command, code, message]) => {
  const { done } = await runCommand(command)
  await expect(done).rejects.toMatchObject({
    name: 'CreationError',
    code,
    message: expect.stringContaining(message),
  })
})

test('A program that is not there is reported, and takes no descriptor with it', async () => {
  const before = await countDescriptors()
  const directory = makeDirectory()
  const options = { name: 'mkfs.gone', directory, timeoutMs: 1000, signal: never }
  await expect(runProgram(['/nonexistent/mkfs.gone'], options)).rejects.toThrow(
    expect.objectContaining({ code: 'EIO', message: 'mkfs.gone cannot be started' }),
  )
  expect(await countDescriptors()).toBe(before)
})

test('A hanging command is killed with its children after the timeout', async () => {
  const { done, directory } = await runCommand(`${FAMILY} wait; wait; sleep 62`, { timeoutMs: 300 })
  const pids = await readPids(join(directory, 'disk.pids'))
  await expect(done).rejects.toMatchObject({ code: 'ETIMEDOUT', message: expect.stringContaining('0.3 s') })
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

test('A command is killed with its children when it is called off', async () => {
  const controller = new AbortController()
  const { done, directory } = await runCommand(`${FAMILY} wait; wait`, { signal: controller.signal })
  const pids = await readPids(join(directory, 'disk.pids'))
  controller.abort()
  await expect(done).rejects.toMatchObject({ name: 'CreationAbortedError', code: 'ECANCELED' })
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

/** Two children that are not in the command's process group: that of `timeout`, and a session of its own. */
const STRAYS = `timeout 60 sleep 60 & echo $! > "$disk.pids"; setsid sleep 61 & echo $! >> "$disk.pids"; `

test('What a command started outside its process group is killed with it after the timeout', async () => {
  const { done, directory } = await runCommand(`${STRAYS} wait`, { timeoutMs: 500 })
  const pids = await readPids(join(directory, 'disk.pids'))
  await expect(done).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

test('What a command started outside its process group is killed with it when it is called off', async () => {
  const controller = new AbortController()
  const { done, directory } = await runCommand(`${STRAYS} wait`, { signal: controller.signal })
  const pids = await readPids(join(directory, 'disk.pids'))
  controller.abort()
  await expect(done).rejects.toMatchObject({ code: 'ECANCELED' })
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

test('A command that fails takes along what it started with `timeout`', async () => {
  const { done, directory } = await runCommand(
    'timeout 60 sleep 60 & echo $! > "$disk.pids"; echo $! >> "$disk.pids"; sleep 0.3; exit 1',
  )
  await expect(done).rejects.toThrow('exit code 1')
  const pids = await readPids(join(directory, 'disk.pids'))
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

test('What a command makes is for nobody else to read', async () => {
  const { done, directory } = await runCommand('echo x > "$disk"; mkdir "$disk.d"')
  await done
  const modeOf = (name: string) => statSync(join(directory, name)).mode & 0o777
  expect(modeOf('disk')).toBe(0o600)
  expect(modeOf('disk.d')).toBe(0o700)
})

test('The children of a command that fails do not outlive it', async () => {
  const { done, directory } = await runCommand(`${FAMILY} echo enough >&2; exit 1`)
  await expect(done).rejects.toThrow('enough')
  const pids = await readPids(join(directory, 'disk.pids'))
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]))
})

test('A daemon that keeps stderr open delays neither success nor failure', async () => {
  const startedAt = performance.now()
  const success = await runCommand('setsid -f sleep 3; sleep 0.1')
  await success.done
  const failure = await runCommand('echo no >&2; setsid -f sleep 3; sleep 0.1; exit 1')
  await expect(failure.done).rejects.toThrow('no')
  expect(performance.now() - startedAt).toBeLessThan(2500)
})

test('Megabytes of stderr end in one line', async () => {
  const { done } = await runCommand(
    'head -c 4000000 /dev/zero | tr "\\0" x >&2; echo >&2; echo end >&2; exit 1',
  )
  await expect(done).rejects.toThrow(/^The command failed: end$/)
})

test('No two of many commands are started in the same turn of the event loop', async () => {
  let turn = 0
  let clock = setImmediate(function tick() {
    turn++
    clock = setImmediate(tick)
  })
  const turns: number[] = []
  const note = () => turns.push(turn)
  subscribe('child_process', note)
  onTestFinished(() => {
    clearImmediate(clock)
    unsubscribe('child_process', note)
  })
  const runs = await Promise.all(Array.from({ length: 20 }, () => runCommand(':')))
  await Promise.all(runs.map(({ done }) => done))
  expect(turns.length).toBe(20)
  expect(new Set(turns).size).toBe(20)
})

test('Nothing is started when it is called off before', async () => {
  const { done, directory } = await runCommand('touch started', { signal: AbortSignal.abort() })
  await expect(done).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(existsSync(join(directory, 'started'))).toBe(false)
})

test('The reason stands before the usage that mkfs.xfs prints', () => {
  expect(reasonOf('size 256 is too small\nUsage: mkfs.xfs\n/* label */ [-L x]\n')).toBe(
    'size 256 is too small',
  )
  expect(reasonOf('Usage: mkfs.x [-L label]\n')).toBe('Usage: mkfs.x [-L label]')
  expect(reasonOf(' \n\r\n')).toBeUndefined()
})

test('The reason stands before the hint that cp and others end with', async () => {
  const { done } = await runCommand('cp "$disk"')
  await expect(done).rejects.toThrow(/^The command failed: cp: missing destination file operand/)
  expect(reasonOf("Try 'x --help' for more information.\n")).toBe("Try 'x --help' for more information.")
})

test('The reason is whole where mkfs.ext4 has wrapped it', () => {
  const said =
    'mke2fs 1.47\nmkfs.ext4: Device size reported to be zero.  Invalid partition, or\n\tit was not read\n\tagain.\n\n'
  expect(reasonOf(said)).toBe(
    'mkfs.ext4: Device size reported to be zero.  Invalid partition, or it was not read again.',
  )
  expect(reasonOf('one\n two\n')).toBe('two')
})

test('The reason is one short line without control characters', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 500 }), stderr => {
      const reason = reasonOf(stderr) ?? 'none'
      expect(reason.length).toBeLessThanOrEqual(301)
      expect(reason).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u)
      expect(reason).not.toBe('')
    }),
  )
})
