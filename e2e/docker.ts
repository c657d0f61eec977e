/** The Docker engine, started where none runs, and images that are built here: none can be pulled. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { check, checkout, type Ended, run } from './harness.ts'

/** hack/image makes a base first where there is none yet. */
export const BUILD_LIMIT = 15 * 60_000
/** Status of hack/image where Docker cannot be had. */
const UNAVAILABLE = 69
/** What hack/image makes its images on. */
const BASE_IMAGE = 'ondemand-disk-base:bookworm'

export interface Docker extends AsyncDisposable {
  /** Why there is none. */
  readonly unavailable: string | undefined
  /** The program and its first arguments: `docker`, as root when its socket is closed to this user. */
  readonly command: readonly [string, ...string[]]
  run(...args: string[]): Promise<Ended>
  /** Returns what it wrote to stdout; throws what it said when it fails. */
  check(...args: string[]): Promise<string>
}

const daemon = () => readFile('/run/docker.pid', 'utf8').catch(() => undefined)

/** Builds the product's image; an engine that was started for that ends with `dispose`. */
export async function useDocker(image: string): Promise<Docker> {
  const daemonBefore = await daemon()
  const build = await run(join(checkout, 'hack/image'), [image], { timeout: BUILD_LIMIT })
  if (build.status !== 0 && build.status !== UNAVAILABLE) {
    throw new Error(`hack/image ended with ${build.status}:\n${build.stdout}${build.stderr}`)
  }
  const unavailable = build.status === 0 ? undefined : build.stderr.trim().split('\n').at(-1)
  const isOpen = (await run('docker', ['info']).catch(() => undefined))?.status === 0
  const command: [string, ...string[]] = isOpen ? ['docker'] : ['sudo', '-n', 'docker']
  const [program, ...first] = command
  return {
    unavailable,
    command,
    run: (...args) => run(program, [...first, ...args]),
    check: (...args) => check(program, [...first, ...args]),
    async [Symbol.asyncDispose]() {
      const now = await daemon()
      if (daemonBefore !== undefined || now === undefined) return
      if (process.getuid?.() === 0) process.kill(Number(now), 'SIGTERM')
      else await run('sudo', ['-n', 'sh', '-c', `kill ${Number(now)}`])
    },
  }
}

/** An image with nbdinfo, nbdcopy and Python's libnbd, for clients that are not ours. */
export async function buildClientImage({ command: [program, ...first] }: Docker, tag: string): Promise<void> {
  // The packages are fetched through this machine's own network: a bridge may have no way out.
  const build = ['build', '--network', 'host', '--build-arg', `BASE=${BASE_IMAGE}`, '--tag', tag]
  await check(program, [...first, ...build, join(import.meta.dirname, 'cluster/client')], {
    timeout: BUILD_LIMIT,
  })
}
