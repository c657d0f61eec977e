#!/usr/bin/env node
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
])

await runCommand(COMMANDS, process.argv.slice(2))
