// Each test file in a process of its own: kernel tests move that process into a network namespace. One at a time: two cores are soon busy.
import { defineConfig, type ViteUserConfig } from 'vitest/config'

const results = process.env['NAMEGATE_TEST_RESULTS']

const config: ViteUserConfig = defineConfig({
  test: {
    include: ['test/{unit,scenarios,kernel,e2e,form}/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    reporters: results === undefined ? ['default'] : ['default', ['json', { outputFile: results }]],
  },
})
export default config
