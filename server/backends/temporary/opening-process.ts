/** For tests: a process that opens a temporary disk, and dies with it open if it is told to. */
import { prepareRecipe } from '../disks/recipe.ts'
import { createTemporaryBackend, openTemporaryArea } from './temporary.ts'

const { path, command, thenDie } = JSON.parse(process.argv[2] ?? '') as {
  path: string
  command: string
  thenDie?: boolean
}
const area = await openTemporaryArea(path)
const backend = createTemporaryBackend({ area, recipe: await prepareRecipe({ command }), size: 1 })
await backend.open('', { readOnly: false, client: 'test', signal: new AbortController().signal })
if (thenDie === true) process.kill(process.pid, 'SIGKILL')
