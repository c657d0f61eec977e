/** The operator as a process that is watched from outside. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { MAIN, type PodTerms } from './as-pod.ts'

/** As the first line of the program has them. */
const NODE_OPTIONS = ['--max-semi-space-size=4']

export interface OperatorProcess {
  readonly pid: number
  /** Requests to the API server so far, by method. `resume` lets a process that was paused go on, after its count. */
  requests(resume: boolean): Promise<Record<string, number>>
  /** Resolves when it acts. */
  readonly leading: Promise<void>
  /** Resolves when no request has been made for 3 seconds. */
  idle(): Promise<void>
  /** Bytes. */
  memory(): { readonly resident: number; readonly highest: number }
  pause(): void
  kill(): Promise<void>
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

/** Starts one; resolves when it acts, or as a standby knows all objects. */
export async function startOperator(pod: PodTerms, options: readonly string[]): Promise<OperatorProcess> {
  const port = await freePort()
  const argv = ['run', ...pod.options, '--image', 'bench', '--metrics', `127.0.0.1:${port}`, ...options]
  const [program = '', ...args] = [...pod.command, process.execPath, ...NODE_OPTIONS, MAIN, ...argv]
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...pod.env },
  })
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  let said = ''
  let act = () => {}
  const leading = new Promise<void>(resolve => {
    act = resolve
  })
  await new Promise<void>((resolve, reject) => {
    createInterface(child.stderr).on('line', line => {
      said = (said + line).slice(-2000)
      if (line.includes('"Acting"')) act()
      if (line.includes(options.includes('--no-leader-election') ? '"Acting"' : '"Knows all objects"'))
        resolve()
    })
    void ended.then(() => reject(new Error(`The operator ended: ${said}`)))
  })

  async function counts(): Promise<Record<string, number>> {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
    const result: Record<string, number> = {}
    for (const [, labels = '', value] of text.matchAll(/^rest_client_requests_total\{(.*)\} (\S+)$/gm)) {
      const [, method = ''] = /method="(\w+)"/.exec(labels) ?? []
      result[method] = (result[method] ?? 0) + Number(value)
    }
    return result
  }

  return {
    pid: child.pid ?? 0,
    leading,
    async requests(resume) {
      if (!resume) return await counts()
      // Nothing of a process that stands still is answered: it is asked while it has just begun to go on.
      child.kill('SIGCONT')
      return await counts()
    },
    async idle() {
      for (let last = ''; ; ) {
        await new Promise(resolve => setTimeout(resolve, 3000))
        const now = JSON.stringify(await counts())
        if (now === last) return
        last = now
      }
    },
    memory() {
      const text = readFileSync(`/proc/${child.pid}/status`, 'utf8')
      const bytes = (field: string) =>
        Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]) * 1024
      return { resident: bytes('VmRSS'), highest: bytes('VmHWM') }
    },
    pause: () => void child.kill('SIGSTOP'),
    async kill() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
