import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const CHECKOUT = new URL('../../../', import.meta.url)

/**
 * Runs a script, to which `exhaust` leaves no descriptor, in a process that may have 64. Returns the code of the error that
 * `attempt` is rejected with; a crash is one of the test.
 */
async function codeWithoutDescriptors(imports: string, before: string, attempt: string): Promise<string> {
  const script = `
    import { openSync } from 'node:fs'
    import { open } from 'node:fs/promises'
    ${imports}
    ${before}
    try { for (;;) openSync('/dev/null') } catch {}
    const code = await ${attempt}.then(() => 'none', error => (error.cause ?? error).code)
    console.log(code)
    process.exit()`
  const program = 'ulimit -n 64; exec "$0" --input-type=module --eval "$1"'
  const { stdout } = await promisify(execFile)('/bin/sh', ['-c', program, process.execPath, script])
  return stdout.trim()
}

test.each([
  [
    'a disk is made',
    `import { runProgram } from '${new URL('server/backends/disks/run.ts', CHECKOUT)}'`,
    `const options = { name: 'x', directory: '/', timeoutMs: 9000, signal: new AbortController().signal }`,
    `runProgram(['/bin/true'], options)`,
  ],
  [
    'a volume is formatted or grown',
    `import { tool } from '${new URL('operator/csi/node/tool.ts', CHECKOUT)}'`,
    '',
    `tool('true', [])`,
  ],
  [
    'a disk is attached',
    `import { attachByFuse } from '${new URL('server/attach/via-fuse.ts', CHECKOUT)}'`,
    `const lock = await open('/dev/null')`,
    `attachByFuse('nbd://127.0.0.1:1/x', { readOnly: false }, lock)`,
  ],
])(
  'Where no descriptor is left, %s in vain and the process lives on',
  async (_, imports, before, attempt) => {
    expect(await codeWithoutDescriptors(imports, before, attempt)).toBe('EMFILE')
  },
)
