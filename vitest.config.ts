import { defineConfig } from 'vitest/config'
import { tallyReporter } from './hack/report.ts'

const { CI, TEST_LOGS: folder, TEST_SUITE: suite } = process.env

export default defineConfig({
  test: {
    reporters: ['default', tallyReporter(CI === 'true', folder && suite ? { folder, suite } : undefined)],
    projects: [
      {
        test: {
          name: 'unit',
          include: ['{crds,server,operator,hack}/**/*.test.ts'],
          testTimeout: 10_000,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['e2e/**/*.e2e.ts'],
          // Each drives whole servers, clients or a virtual machine; side by side they would starve each other.
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
})
