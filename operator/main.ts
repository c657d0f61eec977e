#!/usr/bin/env node
import { type Commands, runCommand } from './cli/entry.ts'

/** What a command needs is loaded when it is called: an agent is small. */
const COMMANDS: Commands = new Map()

await runCommand(COMMANDS, process.argv.slice(2))
