/** The operator that docs/operator-library.md begins with, as it stands there. */
import { spawn } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { CONFIG_MAPS } from '../../operator/kube/objects.ts'
import { checkout } from '../harness.ts'
import { startControlPlane } from './control-plane.ts'

test(
  'the example of the manual does what it says',
  async () => {
    await using plane = await startControlPlane()
    const page = await readFile(join(checkout, 'docs/operator-library.md'), 'utf8')
    const [, example = ''] = /```ts\n(.*?)```/s.exec(page) ?? []
    // It imports from where the manual's reader is: the top of the checkout.
    const file = join(checkout, `.example-${process.pid}.ts`)
    await writeFile(file, example)
    const child = spawn(process.execPath, [file], {
      env: { ...process.env, KUBECONFIG: plane.kubeconfig },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    try {
      const { client } = plane
      const labels = async (name: string) =>
        (await client.get(CONFIG_MAPS, { namespace: 'default', name })).metadata.labels?.[
          'example.org/greeted'
        ]
      for (const name of ['one', 'two']) {
        const metadata = { namespace: 'default', name }
        await client.create(CONFIG_MAPS, { apiVersion: 'v1', kind: 'ConfigMap', metadata })
        await expect.poll(() => labels(name), { timeout: 30_000 }).toBe('yes')
      }
    } finally {
      child.kill('SIGKILL')
      await rm(file)
    }
  },
  20 * 60_000,
)
