/** As much of an agent as makes one copy, for tests. */
import { type CopyOrder, type CopyStep, type CopyView, createCopier } from './copier.ts'
import { startMirror } from './server-mirror.ts'
import { openVolume } from './volume.ts'

export interface CopyTerms {
  /** The pool's volume, and the control socket of its server. */
  readonly volume: string
  readonly control: string
  readonly order: CopyOrder
}

/** Starts as an agent does, makes the copy, and tells what came of it. */
export async function copyOnce(
  { volume: path, control, order }: CopyTerms,
  onStep: (step: CopyStep) => Promise<void> = async () => {},
): Promise<CopyView> {
  const silent = () => {}
  const log = { error: silent, warn: silent, info: silent, debug: silent }
  const volume = await openVolume(path)
  const mirror = startMirror({ path: control, onChange: silent, log })
  try {
    return await new Promise<CopyView>(resolve => {
      const onEnd = () => resolve(copier.view(order.to.uid))
      const copier = createCopier({ volume, mirror, log, onEnd, onStep })
      copier.start(order)
    })
  } finally {
    await mirror.stop()
  }
}
