/** For tests: backends in a few words, and their operations as promises. */
import { type Backend, type Completion, type OpenContext, type Outcome, PENDING } from '../backend.ts'
import { type FillOptions, fillIn } from '../layer.ts'

/** Runs an operation to its end. Rejects with what it failed with; a second end makes the process fail. */
export function operation(start: (completion: Completion) => Outcome): Promise<void> {
  return new Promise((resolve, reject) => {
    let returned = false
    let ended = false
    const end = (error: unknown) => {
      if (ended) throw new Error('The operation ended twice')
      ended = true
      if (error === undefined) resolve()
      else reject(error)
    }
    const outcome = start({
      complete(error) {
        if (!returned) throw new Error('The operation was completed before it returned')
        end(error)
      },
    })
    returned = true
    if (outcome === PENDING) return
    if (outcome === undefined) end(undefined)
    else outcome.then(() => end(undefined), end)
  })
}

export const context = (more: Partial<OpenContext> = {}): OpenContext => ({
  readOnly: false,
  client: 'test',
  signal: new AbortController().signal,
  ...more,
})

/** The smallest backend that works: a disk of 64 KiB in memory, which can be read only, unless there is more. */
export function smallBackend(more: Partial<Backend<Buffer>> = {}): Backend<Buffer> {
  return {
    apiVersion: 1,
    open: () => Buffer.alloc(65_536),
    getSize: disk => disk.length,
    pread(disk, target, start, length, offset) {
      disk.copy(target, start, offset, offset + length)
    },
    ...more,
  }
}

/** A `pwrite` for smallBackend. */
export const pwrite: NonNullable<Backend<Buffer>['pwrite']> = (disk, source, start, length, offset) => {
  source.copy(disk, offset, start, start + length)
}

/** A filled backend with one open handle, and the problems that it reports. */
export async function opened<Inner>(
  backend: Backend<Inner>,
  options: Partial<FillOptions> & { openReadOnly?: boolean } = {},
) {
  const problems: string[] = []
  const { openReadOnly: readOnly = false, ...fill } = options
  const filled = fillIn(backend, {
    readOnly: false,
    onProblem: problem => problems.push(problem.message),
    ...fill,
  })
  const handle = await filled.open('disk', context({ readOnly }))
  return { filled, handle, problems, capabilities: filled.capabilities(handle) }
}
