import { execFile } from 'node:child_process'
import {
  access,
  chmod,
  chown,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

/** What the scripts may count on everywhere. */
const ESSENTIAL = 'bash cat chmod dirname env flock grep head ln mkdir rm sha256sum sleep tail uname'.split(
  ' ',
)

const isRoot = process.getuid?.() === 0
const NOBODY = 65534

let checkout = ''
let bin = ''

beforeEach(async () => {
  checkout = await mkdtemp(join(tmpdir(), 'lib-test-'))
  bin = join(checkout, 'bin')
  await chmod(checkout, 0o777)
  await mkdir(join(checkout, 'hack/node'), { recursive: true })
  await mkdir(bin)
  await copyFile(join(import.meta.dirname, 'lib.sh'), join(checkout, 'hack/lib.sh'))
  await writeFile(join(checkout, 'hack/node/package-lock.json'), '1')
  for (const name of ESSENTIAL) {
    for (const folder of ['/usr/bin', '/bin']) {
      const program = join(folder, name)
      if (!(await exists(program))) continue
      await symlink(program, join(bin, name))
      break
    }
  }
})

afterEach(() => rm(checkout, { recursive: true, force: true }))

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

/** A stand-in for a program whose failures cannot be had to order. It notes its arguments in `calls`. */
async function program(name: string, body: string): Promise<void> {
  const text = `#!${join(bin, 'bash')}\necho "${name} $*" >>${checkout}/calls\n${body}\n`
  await writeFile(join(bin, name), text, { mode: 0o755 })
}

const calls = async () =>
  (await readFile(join(checkout, 'calls'), 'utf8').catch(() => '')).split('\n').slice(0, -1)

/** Runs shell commands after sourcing lib.sh, with nothing in PATH but what the test put there. */
function shell(commands: string, uid?: number): Promise<{ status: number; said: string }> {
  return new Promise(resolve => {
    const child = execFile(
      join(bin, 'bash'),
      ['--norc', '-c', `. ${checkout}/hack/lib.sh\n${commands}`],
      { env: { PATH: bin }, ...(uid !== undefined && { uid }) },
      (_, _stdout, stderr) => resolve({ status: child.exitCode ?? -1, said: stderr }),
    )
    child.stdin?.end()
  })
}

/** npm that, like releases 9 and 10, installs the package for this processor without a link in .bin. */
async function npmThatInstalls({ node = 'echo v26', seconds = 0 } = {}): Promise<void> {
  const folder = `${checkout}/hack/node/node_modules/node-linux-${process.arch}/bin`
  const install = `mkdir -p ${folder}; printf '#!/bin/sh\\n${node}' >${folder}/node; chmod +x ${folder}/node`
  await program('npm', `sleep ${seconds}; ${install}`)
}

describe('Installing the pinned Node.js', () => {
  test('happens once, until the lock file changes', async () => {
    await program('node', 'echo v20.1.0')
    await npmThatInstalls()
    expect(await shell('need_node')).toEqual({ status: 0, said: '==> Installing the pinned Node.js\n' })
    expect(await shell('need_node')).toEqual({ status: 0, said: '' })
    await writeFile(join(checkout, 'hack/node/package-lock.json'), '2')
    expect((await shell('need_node')).said).toContain('Installing')
    expect((await calls()).filter(call => call.startsWith('npm'))).toHaveLength(2)
  })

  test('happens once when two scripts start together', async () => {
    await program('node', 'echo v20.1.0')
    await npmThatInstalls({ seconds: 0.3 })
    const both = await Promise.all([shell('need_node'), shell('need_node')])
    expect(both.map(({ status }) => status)).toEqual([0, 0])
    expect((await calls()).filter(call => call.startsWith('npm'))).toHaveLength(1)
  })

  test('may be asked for by what has its turn already', async () => {
    await program('node', 'echo v20.1.0')
    await npmThatInstalls()
    expect((await shell('one_at_a_time need_node')).status).toBe(0)
  })

  test('without npm says what to install', async () => {
    const { status, said } = await shell('need_node; echo went on >&2')
    expect(status).toBe(1)
    expect(said).toBe('Error: No npm found. Install Node.js 20 or newer with npm, then run this again.\n')
  })

  test('with an old Node.js names its version', async () => {
    await program('node', 'echo v18.19.0')
    await program('npm', '')
    const { status, said } = await shell('need_node')
    expect(status).toBe(1)
    expect(said).toBe('Error: Node.js v18.19.0 is too old. Install 20 or newer, then run this again.\n')
  })

  test('that npm cannot do shows what npm said, and is tried again the next time', async () => {
    await program('node', 'echo v20.1.0')
    await program('npm', 'echo npm error network unreachable >&2; exit 1')
    const { status, said } = await shell('need_node')
    expect(status).toBe(1)
    expect(said).toMatch(
      /npm error network unreachable\nError: npm could not install the pinned Node.js: .*network/,
    )
    await npmThatInstalls()
    expect((await shell('need_node')).status).toBe(0)
  })

  test('for a processor without one names the processor', async () => {
    const { status, said } = await shell('uname() { echo riscv64; }; need_node')
    expect(status).toBe(1)
    expect(said).toBe(
      'Error: There is no pinned Node.js for this machine (riscv64); x86_64 and aarch64 are supported.\n',
    )
  })

  test('that does not run here is tried again the next time', async () => {
    await program('node', 'echo v20.1.0')
    await npmThatInstalls({ node: 'echo no libatomic >&2; exit 127' })
    const { status, said } = await shell('need_node')
    expect(status).toBe(1)
    expect(said).toContain('no libatomic\nError: The pinned Node.js does not run here: see above.\n')
    await npmThatInstalls()
    expect((await shell('need_node')).status).toBe(0)
  })
})

describe('Debian packages', () => {
  const sudo = () => program('sudo', 'shift; exec "$@"')

  /** dpkg-query that knows the packages listed in the file `installed`. */
  const dpkg = () =>
    program(
      'dpkg-query',
      `for p; do grep -qx "$p" ${checkout}/installed && printf 'installed:%s\\n' "$p"; done; exit 1`,
    )

  test('that are there cost no call of apt', async () => {
    await dpkg()
    await program('apt-get', '')
    await writeFile(join(checkout, 'installed'), 'liba\nlibb\n')
    expect(await shell('need_packages liba libb bash:bash')).toEqual({ status: 0, said: '' })
    expect(await calls()).toEqual([expect.stringMatching(/^dpkg-query .* liba libb$/)])
  })

  test('are installed when they are missing, with fresh lists when need be', async () => {
    await dpkg()
    await writeFile(join(checkout, 'installed'), 'liba\n')
    if (!isRoot) await sudo()
    await program(
      'apt-get',
      `case "$1" in
         update) : >${checkout}/updated ;;
         install) [[ -e ${checkout}/updated ]] || { echo 'E: Unable to locate package libb' >&2; exit 100; } ;;
       esac`,
    )
    const { status, said } = await shell('need_packages liba libb tool:no-such-program')
    expect(status).toBe(0)
    expect(said).toBe(
      '==> Installing Debian packages: tool libb\n==> Updating the lists of Debian packages\n',
    )
    expect(
      (await calls()).filter(call => call.startsWith('apt-get')).map(call => call.split(' ')[1]),
    ).toEqual(['install', 'update', 'install'])
  })

  test('that cannot be had are named, after a bounded number of attempts', async () => {
    if (!isRoot) await sudo()
    await program('apt-get', `[[ $1 == update ]] || { echo 'E: No such host'; exit 100; }`)
    const { status, said } = await shell('need_packages tool:no-such-program; echo went on >&2')
    expect(status).toBe(0)
    expect(said).toMatch(
      /Warning: Could not install tool: E: No such host .*apt\.log\)\. Going on without them\.\nwent on/,
    )
    expect((await calls()).filter(call => call.startsWith('apt-get install'))).toHaveLength(3)
  })

  test('on another system: names the missing programs and goes on', async () => {
    const { status, said } = await shell(
      'need_packages liba tool:no-such-program bash:bash; echo went on >&2',
    )
    expect(status).toBe(0)
    expect(said).toBe(
      'Warning: This is not Debian. Install what brings these programs: no-such-program. Going on without them.\nwent on\n',
    )
  })

  test('without root and sudo: says whom to ask for what', async () => {
    await program('apt-get', '')
    const { status, said } = await shell(
      'need_packages tool:no-such-program; echo went on >&2',
      isRoot ? NOBODY : undefined,
    )
    expect(status).toBe(0)
    expect(said).toBe(
      'Warning: Neither root nor sudo. Ask an administrator for: apt-get install tool. Going on without them.\nwent on\n',
    )
  })
})

describe('What Node.js compiles', () => {
  const folder = () => join(checkout, '.cache/compiled')
  const told = (commands: string, uid?: number) =>
    shell(`${commands}\nkeep_compiled; echo "\${NODE_COMPILE_CACHE:-none}" >&2`, uid)
  const nowhere = { status: 0, said: 'none\n' }

  test('is kept in a folder of the owner that nobody else may use, whatever the umask', async () => {
    expect(await told('umask 0')).toEqual({ status: 0, said: `${folder()}\n` })
    expect((await stat(folder())).mode & 0o777).toBe(0o700)
    expect(await told('')).toEqual({ status: 0, said: `${folder()}\n` })
  })

  test('is kept where the user says', async () => {
    expect(await told('NODE_COMPILE_CACHE=/elsewhere')).toEqual({ status: 0, said: '/elsewhere\n' })
    expect(await exists(folder())).toBe(false)
  })

  test('is not kept behind a link', async () => {
    await mkdir(join(checkout, '.cache'))
    await symlink(bin, folder())
    expect(await told('')).toEqual(nowhere)
  })

  test.runIf(isRoot)("is not kept by who runs another's checkout, nor in another's folder", async () => {
    expect(await told('', NOBODY)).toEqual(nowhere)
    expect(await exists(folder())).toBe(false)
    await mkdir(folder(), { recursive: true })
    await chown(folder(), NOBODY, NOBODY)
    expect(await told('')).toEqual(nowhere)
  })

  test.runIf(isRoot)('is not kept, and nothing said, where the owner cannot write', async () => {
    await chown(checkout, NOBODY, NOBODY)
    await chmod(checkout, 0o555)
    expect(await told('', NOBODY)).toEqual(nowhere)
  })

  test('is used by the next run, also after several at once, until the source changes', async () => {
    const main = join(checkout, 'main.ts')
    const run = () =>
      new Promise<{ said: string; isCached: boolean }>(resolve => {
        const env = { ...process.env, NODE_COMPILE_CACHE: folder(), NODE_DEBUG_NATIVE: 'COMPILE_CACHE' }
        execFile(process.execPath, [main], { env }, (_, stdout, stderr) => {
          const text = stdout + stderr
          const [said = ''] = /^(one|two)$/m.exec(text) ?? []
          resolve({
            said,
            isCached: /retrieving transpile cache .*success/.test(text) && /was accepted/.test(text),
          })
        })
      })
    await writeFile(main, "const word: string = 'one'\nconsole.log(word)\n")
    const first = await Promise.all(Array.from({ length: 4 }, run))
    expect(first.map(({ said }) => said)).toEqual(['one', 'one', 'one', 'one'])
    expect(await run()).toEqual({ said: 'one', isCached: true })
    await writeFile(main, "const word: string = 'two'\nconsole.log(word)\n")
    expect(await run()).toEqual({ said: 'two', isCached: false })
    expect(await run()).toEqual({ said: 'two', isCached: true })
  })
})

test.each(['hack/ondemand-disk', 'hack/run', 'server/main.ts', 'Dockerfile'])(
  '%s starts the server with a small young generation',
  async path => {
    const text = await readFile(join(import.meta.dirname, '..', path), 'utf8')
    const starts = text.split('\n').filter(line => /^(exec node|#!.*node|ENTRYPOINT \["node)/.test(line))
    expect(starts).toHaveLength(1)
    expect(starts[0]).toContain('--max-semi-space-size=2')
  },
)
