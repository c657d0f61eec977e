#!/usr/bin/env -S node --max-semi-space-size=4
// Node's young generation of 48 MB and more is not worth its memory here: 4 cost no time, and save 40 MB.
import { type Commands, runCommand } from './cli/entry.ts'

/** What a command needs is loaded when it is called: an agent is small. */
const COMMANDS: Commands = new Map([
  [
    'run',
    async argv => {
      const { run } = await import('./cli/run.ts')
      await run(argv, (await import('./controllers/controllers.ts')).startControllers)
    },
  ],
  [
    'agent',
    async argv => (await import('./cli/agent.ts')).agent(argv, (await import('./agent/agent.ts')).startAgent),
  ],
  ['csi', async argv => (await import('./cli/csi.ts')).csi(argv, (await import('./csi/csi.ts')).startCsi)],
])

await runCommand(COMMANDS, process.argv.slice(2))
