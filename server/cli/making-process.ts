/** For tests: `ondemand-disk make` that kills itself at a step of the creation. */
import type { CreationStep } from '../backends/disks/create.ts'
import { make } from './make.ts'

const [step, ...argv] = process.argv.slice(2)
await make(argv, {
  onStep: async (reached: CreationStep) => {
    if (reached === step) process.kill(process.pid, 'SIGKILL')
  },
})
