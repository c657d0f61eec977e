/**
 * Runs in front of the files of tests beside the code. With SEED in the environment property tests draw the same cases each time,
 * so that CI judges a change and not its luck; without it they draw others each time, and tell the seed of a failure.
 */
import fc from 'fast-check'

const { SEED } = process.env
if (SEED) fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(SEED) })
