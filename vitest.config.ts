import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['{crds,server,operator,hack}/**/*.test.ts'],
    testTimeout: 10_000,
  },
})
