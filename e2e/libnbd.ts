/** Clients written in Python, with Debian's binding of libnbd. */
import type { TestContext } from 'vitest'
import { run } from './harness.ts'

/** Debian's own: python3-libnbd is made for it, not for another that may come first in PATH. */
export const PYTHON = '/usr/bin/python3'

/** Skips the test where Python has no libnbd. */
export async function needLibnbd(context: TestContext): Promise<void> {
  const { status } = await run(PYTHON, ['-c', 'import nbd']).catch(() => ({ status: -1 }))
  context.skip(status !== 0, 'not installed: python3-libnbd')
}
