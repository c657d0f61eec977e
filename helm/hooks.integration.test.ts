/** What the chart's hooks say, with a stand-in for the API server. */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { chart } from './render.ts'

interface Disk {
  readonly metadata: { readonly namespace: string; readonly name: string }
}

/** Of a list as an API server gives it, in pages where they are asked for. */
function listOf(all: readonly Disk[], limit: number) {
  const items = limit > 0 ? all.slice(0, limit) : all
  const rest = all.length - items.length
  return { items, metadata: rest > 0 ? { continue: 'x', remainingItemCount: rest } : {} }
}

/** Runs the check before an uninstall on a cluster with these disks; returns what it says. */
async function uninstall(disks: readonly Disk[], env: Readonly<Record<string, string>> = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'ondemand-disk-hooks-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  for (const name of ['ca.crt', 'token']) writeFileSync(join(directory, name), 'x')
  // The same program, without TLS.
  const text = readFileSync(join(chart, 'files/hooks.mjs'), 'utf8')
    .replace('node:https', 'node:http')
    .replace('/var/run/secrets/kubernetes.io/serviceaccount', directory)
  const program = join(directory, 'hooks.mjs')
  writeFileSync(program, text)
  const asked: string[] = []
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://api')
    asked.push(`${request.method} ${url.pathname}`)
    const isDisks = url.pathname.endsWith('/ondemanddisks')
    response.end(JSON.stringify(listOf(isDisks ? disks : [], Number(url.searchParams.get('limit') ?? 0))))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const { port } = server.address() as AddressInfo
  const where = { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: String(port) }
  return await new Promise<{ status: number; said: string; asked: readonly string[] }>(resolve => {
    // As the limit of the hook's memory: what does not fit is killed.
    const args = ['--max-old-space-size=48', program, 'uninstall']
    execFile(process.execPath, args, { env: { ...where, ...env } }, (error, stdout) => {
      resolve({ status: error ? Number(error.code ?? -1) : 0, said: stdout.trim(), asked })
    })
  })
}

const disksNamed = (count: number, fields: object = {}): Disk[] =>
  Array.from({ length: count }, (_, index) => ({
    metadata: { namespace: 'a', name: `disk-${index}` },
    ...fields,
  }))

test('an uninstall is refused while there are disks, and goes on without any', async () => {
  expect(await uninstall(disksNamed(1))).toMatchObject({
    status: 1,
    said: expect.stringMatching(/^Disks are left: a\/disk-0\. Delete them first, or /),
  })
  const { status, said, asked } = await uninstall([], { WATCH_NAMESPACE: 'a' })
  expect([status, said]).toEqual([0, 'There are neither disks nor pools.'])
  expect(asked).toContain('GET /apis/ondemanddisk.dev/v1alpha1/namespaces/a/diskpools')
})

// All of them were read: the pod, which may take 128 MiB, was killed, and nobody knew why.
test('an uninstall is refused with its reason however many disks there are', async () => {
  const { status, said } = await uninstall(disksNamed(20_000, { filler: 'x'.repeat(2000) }))
  expect(status).toBe(1)
  expect(said).toMatch(/^Disks are left: a\/disk-0, .*, a\/disk-9 and 19990 more\. Delete them first, /)
})
